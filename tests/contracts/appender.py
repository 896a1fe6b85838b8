"""A process that appends from four threads until it is killed, and names every entry that was acknowledged."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path

from tests.contracts.conftest import BACKENDS

from weir.stores.base import EntryKind, Log


def produce(log: Log, producer: str) -> None:
    for number in itertools.count():
        payload = f"{producer} {number}"
        entry, _ = log.append(EntryKind.BATCH, producer, payload.encode(), samples=1)
        os.write(sys.stdout.fileno(), f"{entry.id} {payload}\n".encode())


def main(backend: str, place: str) -> None:
    with BACKENDS[backend](Path(place), max_batches=10**9, max_bytes=10**12) as stores:
        threads = [threading.Thread(target=produce, args=(stores.log, f"producer-{n}")) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
