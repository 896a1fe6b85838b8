"""The appender: deliveries that come at the same time go into the log together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from weir.api import appender
from weir.api.appender import Appender, Receipt
from weir.errors import LogFull, StorageFailed, WeirError
from weir.stores.base import Durability, Entry, EntryKind, NewEntry
from weir.stores.sqlite import Sqlite
from weir.stores.sqlite.log import SqliteLog

RELAXED = Durability(("nobody cares",))


class HeldLog:
    """The log in a file; it holds the first group back until it is let go, and says how large each one was."""

    def __init__(self, log: SqliteLog) -> None:
        self.groups: list[int] = []
        self.go_on = threading.Event()
        self.fails = False
        self._log = log

    def append_all(self, entries: Sequence[NewEntry]) -> list[tuple[Entry, bool] | WeirError]:
        self.groups.append(len(entries))
        assert self.go_on.wait(20)
        if self.fails:
            raise StorageFailed("the file is gone")
        return self._log.append_all(entries)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Sqlite]:
    with Sqlite(tmp_path / "weir.db", max_batches=4) as file:
        yield file


@pytest.fixture
def log(file: Sqlite) -> HeldLog:
    return HeldLog(file.log)


def new(number: int, *, size: int = 1) -> NewEntry:
    return NewEntry(EntryKind.BATCH, "ada", bytes([number]) * size, 1)


async def sent(
    log: HeldLog, entries: Sequence[NewEntry], *, cancelled: int | None = None
) -> list[Receipt | BaseException]:
    """What became of each, when the first is on its way before the others come."""
    door = Appender(log, lambda: RELAXED)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(door.append(entries[0]))]
    while not log.groups:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(door.append(entry)) for entry in entries[1:]]
    await asyncio.sleep(0)
    if cancelled is not None:
        tasks[cancelled].cancel()
    log.go_on.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_comes_while_a_group_is_on_its_way_goes_together(file: Sqlite, log: HeldLog) -> None:
    receipts = asyncio.run(sent(log, [new(number) for number in range(4)]))
    assert log.groups == [1, 3]
    assert receipts == [Receipt(entry, True, RELAXED) for entry in file.log.read(0, 10)]
    assert [entry.payload for entry in file.log.read(0, 10)] == [b"\0", b"\1", b"\2", b"\3"]


def test_one_that_is_refused_leaves_its_neighbours_alone(log: HeldLog) -> None:
    outcomes = asyncio.run(sent(log, [new(number) for number in range(6)]))
    assert [type(outcome) for outcome in outcomes] == [Receipt] * 4 + [LogFull] * 2


def test_a_log_that_fails_is_told_to_all_and_asked_again_by_the_next(file: Sqlite, log: HeldLog) -> None:
    async def twice() -> tuple[list[Receipt | BaseException], Receipt]:
        log.fails = True
        failed = await sent(log, [new(0), new(1), new(2)])
        log.fails = False
        return failed, await Appender(log, lambda: RELAXED).append(new(3))  # type: ignore[arg-type]

    failed, taken = asyncio.run(twice())
    assert [type(outcome) for outcome in failed] == [StorageFailed] * 3
    assert file.log.read(0, 10) == [taken.entry]


def test_a_request_that_is_cancelled_takes_no_other_with_it(file: Sqlite, log: HeldLog) -> None:
    outcomes = asyncio.run(sent(log, [new(0), new(1), new(2)], cancelled=1))
    assert [type(outcome) for outcome in outcomes] == [Receipt, asyncio.CancelledError, Receipt]
    assert len(file.log.read(0, 10)) == 3


def test_a_group_has_so_many_bytes_and_no_more(log: HeldLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender, "_GROUP_BYTES", 10)
    asyncio.run(sent(log, [new(0), new(1, size=11), new(2, size=5), new(3, size=5)]))
    assert log.groups == [1, 1, 2]


def test_what_no_longer_fits_before_the_disk_is_refused(log: HeldLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender, "_MOST_BYTES", 10)
    outcomes = asyncio.run(sent(log, [new(0), new(1, size=20), new(2)]))
    assert [type(outcome) for outcome in outcomes] == [Receipt, Receipt, LogFull]
    assert str(outcomes[2]) == "the disk is behind: 1 batches (20 bytes) wait; try again in 1 s"
