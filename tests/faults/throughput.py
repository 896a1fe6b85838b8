"""What durability costs: appended batches per second with it and without, beside bare grouped syncs of the same disk.

Run as ``python -m tests.faults.throughput``; it adds a JSON line per measurement to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from tests.redis_server import DURABLE, running

from weir.stores.base import EntryKind, Log
from weir.stores.redis import Redis
from weir.stores.sqlite import Sqlite, segments
from weir.stores.sqlite.database import Database

MOST_BATCHES, MOST_BYTES = 10**9, 10**12  # nobody learns here: all of it waits


class Case(NamedTuple):
    """One thing to measure."""

    store: str
    durable: bool
    producers: int
    size: int  # bytes of a batch


class Counted(NamedTuple):
    """Batches and seconds, and how many batches shared a sync (0: not known)."""

    batches: int
    seconds: float
    group: float


def main() -> None:
    """Measure every case in turn, again and again, so that a slow minute of the disk meets all of them."""
    asked = _arguments()
    cases = [
        Case(store, durable, producers, size)
        for size in asked.size
        for producers in (1, 8)
        for store in ("sqlite", "redis")
        for durable in (True, False)
    ]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("a") as out, tempfile.TemporaryDirectory(prefix="weir-throughput-", dir=asked.place) as place:
        disk = _disk(Path(place))
        for repetition in range(asked.repetitions):
            for case in cases:
                for line in _measured(case, Path(place), asked.seconds):
                    told = {"what": "throughput", **line, "repetition": repetition, "disk": disk}
                    out.write(json.dumps(told) + "\n")
                    out.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what durable appends cost.")
    parser.add_argument("--size", type=int, nargs="+", default=[4096, 65536], help="bytes of a batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--repetitions", type=int, default=5, help="of every case")
    parser.add_argument(
        "--place", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to measure"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/durability.jsonl"), help="file to add lines to")
    return parser.parse_args()


def _measured(case: Case, place: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """The store's figures, and for durable ones those of the bare disk with the same grouping."""
    opened = {"sqlite": _sqlite, "redis": _redis}[case.store]
    with tempfile.TemporaryDirectory(dir=place) as folder, opened(case, Path(folder)) as (log, groups):
        batches, spent = _appended(log, case, seconds)
        found = Counted(batches, spent, sum(groups) / len(groups) if groups else 0.0)
    yield _line(case, found)
    if case.durable:
        # Redis does not tell; it cannot sync fewer times than once for all who wait.
        group = max(1, round(found.group)) if found.group else case.producers
        with tempfile.TemporaryDirectory(dir=place) as folder:
            bare = _synced(Path(folder) / "file", case.size, group, seconds)
        yield _line(case._replace(store=f"bare disk, grouped as {case.store}"), bare)


def _line(case: Case, found: Counted) -> dict[str, Any]:
    rate = found.batches / found.seconds
    figures = {"per_second": round(rate, 1), "mb_per_second": round(rate * case.size / 1e6, 2)}
    return {**case._asdict(), **figures, "group": round(found.group, 2)}


def _appended(log: Log, case: Case, seconds: float) -> tuple[int, float]:
    """How many batches all producers together appended, and in how many seconds."""
    payload, end = os.urandom(case.size), time.monotonic() + seconds
    counts = [0] * case.producers

    def produce(number: int) -> None:
        while time.monotonic() < end:
            log.append(EntryKind.BATCH, f"producer-{number}", payload, samples=1)
            counts[number] += 1

    began = time.monotonic()
    threads = [threading.Thread(target=produce, args=(number,)) for number in range(case.producers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), time.monotonic() - began


def _synced(file: Path, size: int, group: int, seconds: float) -> Counted:
    """The same bytes appended to a bare file, with a sync after each group of batches."""
    payload, batches, began = os.urandom(size), 0, time.monotonic()
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while time.monotonic() < began + seconds:
            os.write(handle, payload * group)
            os.fsync(handle)
            batches += group
    finally:
        os.close(handle)
    return Counted(batches, time.monotonic() - began, float(group))


@contextmanager
def _sqlite(case: Case, folder: Path) -> Iterator[tuple[Log, list[int]]]:
    """The log in SQLite, and the sizes of its transactions."""
    groups: list[int] = []
    transact: Callable[..., None] = Database._transact

    def counted(database: Database, group: Sequence[Any]) -> None:
        groups.append(len(group))
        transact(database, group)

    with (
        patch.object(Database, "_transact", counted),
        Sqlite(folder / "weir.db", max_batches=MOST_BATCHES, max_bytes=MOST_BYTES) as stores,
    ):
        if case.durable:
            yield stores.log, groups
            return
        database: Any = stores.log._database
        database._writer = _Unsynced(database._writer)
        with patch.object(segments._Tail, "sync", lambda tail: None):
            yield stores.log, groups


class _Unsynced:
    """A connection of SQLite that never waits for the disk, whatever is asked of it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement.startswith("PRAGMA synchronous"):
            statement = "PRAGMA synchronous = OFF"
        return self._connection.execute(statement, *parameters)


@contextmanager
def _redis(case: Case, folder: Path) -> Iterator[tuple[Log, list[int]]]:
    settings = {**DURABLE, "appendfsync": "always" if case.durable else "no"}
    with (
        running(settings, place=folder) as server,
        Redis(server.url, max_batches=MOST_BATCHES, max_bytes=MOST_BYTES) as stores,
    ):
        yield stores.log, []


def _disk(place: Path) -> str:
    """The file system that a folder lies on."""
    told = subprocess.run(
        ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", place], capture_output=True, text=True, check=True
    )
    return " on ".join(told.stdout.split())


if __name__ == "__main__":
    main()
