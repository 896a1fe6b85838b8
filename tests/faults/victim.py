"""``weir serve`` that ends itself by SIGKILL at the n-th passing of a named point.

By hand: ``python -m tests.faults.victim POINT PASSING serve``. The service has no hooks for this: its own methods are
wrapped from outside, and what they do is left as it is.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weir import cli, config, folder
from weir.core.engine import Engine
from weir.core.guard import Guard
from weir.core.transaction import Transaction
from weir.stores import disk
from weir.stores.base import Stores
from weir.trainer import Trainer, commands, course
from weir.trainer.cutter import Cutter

FIXED: dict[str, tuple[Any, str]] = {
    "cut": (Cutter, "cut"),
    "process": (Engine, "process"),
    "guard": (Guard, "judge"),
    "step": (Transaction, "attempt"),
    "command": (commands, "run"),
    "settle": (course, "settle"),
    "files": (disk, "_write"),  # a checkpoint's files are written, under a name that does not count yet
    "publish": (Trainer, "_published"),
}
STORES: dict[str, tuple[str, str]] = {
    "append": ("log", "append_all"),
    "read": ("log", "read"),
    "consumed": ("log", "consumed"),
    "journal": ("journal", "record"),
    "lineage": ("journal", "in_weights"),
    "quarantine": ("quarantine", "put"),
    "release": ("quarantine", "move"),
    "checkpoint": ("checkpoints", "save"),
}
POINTS = tuple(f"{name}.{side}" for name in (*FIXED, *STORES) for side in ("before", "after"))


def deadly(method: Callable[..., Any], side: str, passing: int) -> Callable[..., Any]:
    """The same method, but for the ``passing``-th call: the process ends right before it, or right after."""
    calls = itertools.count(1)

    @functools.wraps(method)
    def wrapped(*given: Any, **named: Any) -> Any:
        fatal = next(calls) == passing
        if fatal and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*given, **named)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


def plant(point: str, passing: int) -> None:
    """Make a point deadly. Which classes the stores have is known only once they are open."""
    name, _, side = point.partition(".")
    if name in FIXED:
        owner, method = FIXED[name]
        setattr(owner, method, deadly(getattr(owner, method), side, passing))
        return
    part, method = STORES[name]
    opened = folder.stores

    @contextmanager
    def planted(settings: config.Settings) -> Iterator[Stores]:
        with opened(settings) as stores:
            owner = type(getattr(stores, part))
            setattr(owner, method, deadly(getattr(owner, method), side, passing))
            yield stores

    folder.stores = planted


def live(point: str, passing: int, environment: Mapping[str, str], log: Path) -> None:
    """The life of a process that was forked for it: in a group of its own, with both its outputs in ``log``."""
    os.setsid()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    plant(point, passing)
    cli.main(["serve"])


if __name__ == "__main__":
    plant(sys.argv[1], int(sys.argv[2]))
    del sys.argv[1:3]
    cli.main()
