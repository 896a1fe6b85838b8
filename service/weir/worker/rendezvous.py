"""How the ranks of one start find each other, and nobody of an earlier start."""

from __future__ import annotations

import json
import secrets
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

from weir.errors import GroupLost

LATEST = timedelta(minutes=2)
PAUSE = 0.05  # seconds between two looks


def met(store: Store, rank: int, size: int) -> Store:
    """A part of the store that only the ranks of this start know; raises GroupLost when one of them does not come.

    torchrun's store outlives the processes that it starts anew: by its keys alone they would find the addresses of
    those that died. So rank 0 gives this start a name, and goes ahead with those that have answered to it; who finds
    the name of an earlier start is not among those, and looks again.
    """
    return PrefixStore(_name(store, size) if rank == 0 else _answered(store, rank), store)


def _name(store: Store, size: int) -> str:
    name = secrets.token_hex(8)
    store.set("weir/start", name)
    places = [f"weir/{name}/{rank}" for rank in range(1, size)]
    try:
        store.wait(places, LATEST)
    except RuntimeError:
        raise GroupLost(f"not all of {size} ranks came within {LATEST}") from None
    store.set(f"weir/{name}/all", json.dumps([store.get(place).decode() for place in places]))
    return name


def _answered(store: Store, rank: int) -> str:
    mine, deadline = secrets.token_hex(8), time.monotonic() + LATEST.total_seconds()
    while time.monotonic() < deadline:
        if store.check(["weir/start"]):
            name: str = store.get("weir/start").decode()
            store.set(f"weir/{name}/{rank}", mine)
            if store.check([f"weir/{name}/all"]) and mine in json.loads(store.get(f"weir/{name}/all")):
                return name
        time.sleep(PAUSE)
    raise GroupLost(f"rank 0 did not come within {LATEST}")
