"""Payloads beside the database: where they lie, what crashes leave of them, and when they go."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weir.errors import LogFull, NotFound, StorageFailed
from weir.stores.base import Cursor, Decision, Entry, EntryKind, IdempotencyKey, NewEntry
from weir.stores.sqlite import Sqlite, audit, dead_letters, journal, keys, log, quarantine, segments
from weir.stores.sqlite.segments import Place, Segments
from weir.types import Reason, SampleRef, SampleVerdict, Verdict

SIZE = segments.OUTSIDE_BYTES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weir.db"


def body(letter: str, size: int = SIZE) -> bytes:
    """Bytes that can be told, and found in a file."""
    return (f"very particular {letter} ".encode() * size)[:size]


def deliver(stores: Sqlite, letter: str, key: str | None = None) -> Entry:
    named = key and IdempotencyKey(key, "aa")
    return stores.log.append(EntryKind.BATCH, "ada", body(letter), samples=1, key=named or None)[0]


def files(file: Path) -> list[Path]:
    return sorted(Path(f"{file}-payloads").glob("*"))


def lies_in(folder: Path, letter: str) -> list[str]:
    """The files that have any of a body."""
    whole = f"particular {letter} ".encode()
    return [found.name for found in sorted(folder.rglob("*")) if found.is_file() and whole in found.read_bytes()]


def damage(file: Path, at: int, content: bytes = b"\0" * 100) -> None:
    with file.open("r+b") as damaged:
        damaged.seek(at)
        damaged.write(content)


def places(file: Path) -> list[tuple[int, int]]:
    """What the database knows of its segments."""
    connection = sqlite3.connect(file)
    rows = connection.execute("SELECT number, synced FROM segment ORDER BY number").fetchall()
    connection.close()
    return rows


def test_a_large_payload_lies_beside_the_database_and_a_small_one_in_it(file: Path) -> None:
    with Sqlite(file) as stores:
        large = deliver(stores, "A")
        small, _ = stores.log.append(EntryKind.BATCH, "ada", body("B", SIZE - 1), samples=1)
        assert lies_in(file.parent, "A") == ["00000001"]
        assert lies_in(file.parent, "B") == ["weir.db-wal"]
        assert stores.log.read(0, 10) == [large, small]
    with Sqlite(file) as stores:
        assert [stores.log.get(entry.id) for entry in (large, small)] == [large, small]


def test_payloads_of_one_append_lie_one_after_another(file: Path) -> None:
    with Sqlite(file) as stores:
        new = [NewEntry(EntryKind.BATCH, "ada", body(letter), 1) for letter in "ABC"]
        stores.log.append_all(new)
        deliver(stores, "D")
        assert files(file)[0].read_bytes() == b"".join(map(body, "ABCD"))
        assert [entry.payload for entry in stores.log.read(0, 10)] == [body(letter) for letter in "ABCD"]


def test_what_is_refused_or_known_is_not_written(file: Path) -> None:
    with Sqlite(file, max_batches=1) as stores:
        deliver(stores, "A", key="k")
        before = files(file)[0].read_bytes()
        deliver(stores, "A", key="k")
        with pytest.raises(LogFull):
            deliver(stores, "B")
        assert files(file)[0].read_bytes() == before == body("A")


class FailsToCommit:
    """The writer's connection, whose commits fail with this code of SQLite's."""

    def __init__(self, connection: sqlite3.Connection, code: int) -> None:
        self._connection = connection
        self._error = sqlite3.OperationalError("no")
        self._error.sqlite_errorcode = code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            raise self._error
        return self._connection.execute(statement, *values)


@pytest.mark.parametrize(("code", "left"), [(sqlite3.SQLITE_FULL, []), (sqlite3.SQLITE_IOERR_FSYNC, ["00000001"])])
def test_a_commit_that_fails_leaves_bytes_only_if_it_may_yet_count(file: Path, code: int, left: list[str]) -> None:
    with Sqlite(file) as stores:
        first = deliver(stores, "A")
        database: Any = stores._database
        writer, database._writer = database._writer, FailsToCommit(database._writer, code)
        with pytest.raises(StorageFailed, match="no"):
            deliver(stores, "B")
        database._writer = writer
        assert lies_in(file.parent, "B") == left
        kept = [first, deliver(stores, "C")]
        assert stores.log.read(0, 10) == kept
    with Sqlite(file) as stores:
        assert lies_in(file.parent, "B") == []
        assert stores.log.read(0, 10) == kept


def test_a_full_segment_is_followed_by_another(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2 * SIZE)
    with Sqlite(file) as stores:
        entries = [deliver(stores, letter) for letter in "ABCDE"]
        assert [found.stat().st_size for found in files(file)] == [2 * SIZE, 2 * SIZE, SIZE]
        assert stores.log.read(0, 10) == entries


def test_trimming_deletes_the_segments_that_nothing_is_left_of(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2 * SIZE)
    with Sqlite(file) as stores:
        entries = [deliver(stores, letter) for letter in "ABCDE"]
        stores.log.consumed(5)
        stores.log.trim(3, keep_bytes=0)
        assert [found.name for found in files(file)] == ["00000002", "00000003"]
        assert stores.log.read(0, 10) == entries[3:]
        stores.log.trim(5, keep_bytes=0)
        assert [found.name for found in files(file)] == ["00000003"], "it is still appended to"
        last = deliver(stores, "F")
        assert stores.log.read(0, 10) == [last]
        stores.log.consumed(6)
        stores.log.trim(6, keep_bytes=0)
    with Sqlite(file):
        assert files(file) == []
        assert places(file) == []


def test_each_process_appends_to_a_segment_of_its_own_and_leaves_others_theirs(file: Path) -> None:
    with Sqlite(file) as one, Sqlite(file) as other:
        entries = [deliver(stores, letter) for stores, letter in ((one, "A"), (other, "B"), (one, "C"))]
        assert [found.stat().st_size for found in files(file)] == [2 * SIZE, SIZE]
        assert other.log.read(0, 10) == entries
        one.log.consumed(3)
        one.log.trim(3, keep_bytes=0)
        with Sqlite(file):
            assert len(files(file)) == 2
        assert one.log.read(0, 10) == []
        kept = [deliver(other, "D"), deliver(one, "E")]
        assert one.log.read(0, 10) == kept


def test_what_is_erased_is_overwritten_and_its_neighbours_stay(file: Path) -> None:
    with Sqlite(file) as stores:
        entries = [deliver(stores, letter) for letter in "ABCD"]
        stores.log.consumed(4)
        stores.log.trim(1, keep_bytes=0)
        assert lies_in(file.parent, "A") == ["00000001"]
        stores.log.rewrite(entries[2].id, b"nothing")
        assert [lies_in(file.parent, letter) for letter in "ABCD"] == [[], ["00000001"], [], ["00000001"]]
        assert [entry.payload for entry in stores.log.read(0, 10)] == [body("B"), b"nothing", body("D")]
    with Sqlite(file) as stores:
        assert [entry.payload for entry in stores.log.read(0, 10)] == [body("B"), b"nothing", body("D")]


def test_an_erasure_that_was_cut_short_is_ended_by_the_next_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(of: Segments, connection: sqlite3.Connection) -> None:
        raise OSError("the machine went down")

    with Sqlite(file) as stores:
        entry, other = deliver(stores, "A"), deliver(stores, "B")
        with monkeypatch.context() as patched:
            patched.setattr(Segments, "wipe", fails)
            with pytest.raises(OSError, match="went down"):
                stores.log.rewrite(entry.id, b"nothing")
        assert lies_in(file.parent, "A")
    with Sqlite(file) as stores:
        stores.quarantine.drop([])  # which every erasure ends with
        assert lies_in(file.parent, "A") == []
        assert stores.log.get(other.id) == other


def test_a_read_that_an_erasure_or_a_trim_overtakes_looks_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sqlite(file) as stores:
        entries = [deliver(stores, letter) for letter in "AB"]
        read = Segments.read
        overtaking: list[Callable[[], object]] = [lambda: stores.log.rewrite(entries[0].id, b"nothing")]

        def overtaken(of: Segments, place: Place) -> bytes:
            while overtaking:
                overtaking.pop()()
            return read(of, place)

        monkeypatch.setattr(Segments, "read", overtaken)
        assert stores.log.get(entries[0].id).payload == b"nothing"
        stores.log.consumed(2)
        overtaking += [lambda: damage(files(file)[0], SIZE), lambda: stores.log.trim(2, keep_bytes=0)]
        with pytest.raises(NotFound):
            stores.log.get(entries[1].id)


@pytest.mark.parametrize("at", [0, SIZE + 10])
def test_damage_is_named_with_file_and_offset_and_drops_nothing(file: Path, at: int) -> None:
    with Sqlite(file) as stores:
        entries = [deliver(stores, letter) for letter in "ABC"]
    damage(files(file)[0], at)
    with Sqlite(file) as stores:
        broken = entries.pop(at // SIZE)
        with pytest.raises(StorageFailed, match=rf"00000001: at offset {at // SIZE * SIZE}: .*put a sound copy"):
            stores.log.get(broken.id)
        assert [stores.log.get(entry.id) for entry in entries] == entries
        damage(files(file)[0], 0, body("A"))
        damage(files(file)[0], SIZE, body("B"))
        assert len(stores.log.read(0, 10)) == 3


def test_a_missing_segment_is_named_and_comes_back_with_its_file(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Sqlite(file) as stores:
        entries = [deliver(stores, letter) for letter in "AB"]
    elsewhere = files(file)[0].rename(file.parent / "elsewhere")
    with caplog.at_level(logging.ERROR), Sqlite(file) as stores:
        assert "00000001 is missing" in caplog.text
        with pytest.raises(StorageFailed, match=r"00000001: at offset 0: No such file"):
            stores.log.read(0, 10)
        last = deliver(stores, "C")
        elsewhere.rename(Path(f"{file}-payloads") / "00000001")
        assert stores.log.read(0, 10) == [*entries, last]


def test_bytes_that_no_entry_refers_to_go_when_it_is_opened(file: Path) -> None:
    with Sqlite(file) as stores:
        entry = deliver(stores, "A")
    with files(file)[0].open("ab") as tail:
        tail.write(body("B"))
    (files(file)[0].parent / "00000002").write_bytes(body("C"))  # begun, and never committed
    with Sqlite(file) as stores:
        assert [found.name for found in files(file)] == ["00000001"]
        assert lies_in(file.parent, "B") == lies_in(file.parent, "C") == []
        kept = [entry, deliver(stores, "D")]
        assert stores.log.read(0, 10) == kept


def test_a_delivery_whose_bytes_a_crash_took_is_dropped_and_may_be_sent_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a crash of the machine may leave: the database is on the disk, the end of the segment is not."""
    with Sqlite(file) as stores:
        kept = [deliver(stores, letter) for letter in "AB"]
        lost = deliver(stores, "C", key="k")
        small, _ = stores.log.append(EntryKind.BATCH, "ada", b"small", samples=1)
    os.truncate(files(file)[0], 2 * SIZE + 100)
    with caplog.at_level(logging.ERROR), Sqlite(file) as stores:
        assert "took the bytes of 1 entries" in caplog.text
        assert stores.log.read(0, 10) == [*kept, small]
        assert stores.log.backlog().batches == 3
        assert stores.log.backlog().bytes == 2 * SIZE + len(b"small")
        again = deliver(stores, "C", key="k")
        assert (again.position, again.id != lost.id) == (5, True)
        assert stores.log.read(4, 10) == [again]


def test_a_relaxed_file_loses_what_was_not_synced_and_what_was_decided_on_it(file: Path) -> None:
    def decided(entry: Entry) -> Decision:
        verdict = SampleVerdict(Verdict.ACCEPT, Reason.CLEAN, 0.1)
        start, end = Cursor(entry.position - 1), Cursor(entry.position)
        return Decision(entry.position, start, end, (SampleRef(entry.id, 0),), (verdict,))

    with Sqlite(file, relaxed=True) as stores:
        entries = [deliver(stores, letter) for letter in "ABC"]
        for entry in entries:
            stores.journal.record(decided(entry))
        assert places(file) == [(1, 0)]
    damage(files(file)[0], SIZE)
    with Sqlite(file, relaxed=True) as stores:
        assert stores.log.read(0, 10) == [entries[0], entries[2]]
        assert stores.journal.after(Cursor()) == [decided(entries[0])]
        assert stores.journal.samples(entries[2].id) == []


def test_what_a_relaxed_file_wrote_is_on_the_disk_after_a_trim(file: Path) -> None:
    with Sqlite(file, relaxed=True) as stores:
        entry = deliver(stores, "A")
        stores.log.trim(0, keep_bytes=SIZE)
        assert places(file) == [(1, SIZE)]
    damage(files(file)[0], 0)
    with Sqlite(file, relaxed=True) as stores, pytest.raises(StorageFailed, match="at offset 0"):
        stores.log.get(entry.id)


def test_a_durable_append_is_on_the_disk_before_the_next_one(file: Path) -> None:
    with Sqlite(file) as stores:
        deliver(stores, "A")
        deliver(stores, "B")
        assert places(file) == [(1, SIZE)]


def test_a_segment_that_cannot_be_synced_is_told_and_not_appended_to(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int) -> None:
        raise OSError(5, "Input/output error")

    with Sqlite(file) as stores:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fails)
            with pytest.raises(StorageFailed, match="Input/output error"):
                deliver(stores, "A")
        entry = deliver(stores, "B")
        assert lies_in(file.parent, "B") == ["00000002"]
        assert stores.log.get(entry.id) == entry


VICTIM = """
    import os, signal, sys
    from pathlib import Path
    from tests.stores.test_segments import deliver
    from weir.stores.sqlite import Sqlite
    from weir.stores.sqlite.segments import _Tail

    with Sqlite(Path(sys.argv[1])) as stores:
        deliver(stores, "A")
        method = getattr(_Tail, sys.argv[2])

        def deadly(tail, *given):
            method(tail, *given)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(_Tail, sys.argv[2], deadly)
        deliver(stores, "B")
"""


def test_killed_between_the_bytes_and_the_commit_it_has_neither(file: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(VICTIM), str(file), "write"]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert lies_in(file.parent, "B") == ["00000001"]
    with Sqlite(file) as stores:
        assert [entry.payload for entry in stores.log.read(0, 10)] == [body("A")]
        assert lies_in(file.parent, "B") == []
        assert deliver(stores, "C") in stores.log.read(0, 10)


def test_payloads_without_their_database_are_left_alone(file: Path) -> None:
    with Sqlite(file) as stores:
        deliver(stores, "A")
    for part in file.parent.glob("weir.db*"):
        if part.is_file():
            part.unlink()
    with pytest.raises(StorageFailed, match="payloads of another database"):
        Sqlite(file)
    assert lies_in(file.parent, "A") == ["00000001"]


def test_a_database_of_the_version_before_is_read_and_goes_on(file: Path) -> None:
    parts = (log, journal, quarantine, dead_letters, audit, keys)
    with sqlite3.connect(file) as old:
        for statement in (statement for part in parts for statement in part.SCHEMA):
            old.execute(statement)
        row = (1, "b_old", "batch", "ada", 1, 5.0, SIZE, SIZE, body("A"))
        old.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        old.execute("PRAGMA user_version = 2")
    old.close()
    with Sqlite(file) as stores:
        assert stores.log.get("b_old") == Entry(1, "b_old", EntryKind.BATCH, "ada", 1, body("A"), 5.0)
        new = deliver(stores, "B")
        stores.log.rewrite("b_old", b"nothing")
        assert [entry.payload for entry in stores.log.read(0, 10)] == [b"nothing", body("B")]
        assert lies_in(file.parent, "A") == []
    with Sqlite(file) as stores:
        stores.log.consumed(2)
        assert stores.log.trim(1, keep_bytes=SIZE) == 1
        assert stores.log.read(0, 10) == [new]
