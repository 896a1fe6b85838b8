"""What is SQLite's own: the file, shared transactions, readers beside a writer, and failures by name."""

from __future__ import annotations

import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from weir.errors import Conflict, StorageFailed
from weir.stores.base import Cursor, DeadLetter, Decision, EntryKind, Held
from weir.stores.sqlite import Sqlite
from weir.stores.sqlite.database import Database
from weir.types import Reason, SampleVerdict, Verdict

COUNTER = ("CREATE TABLE counter (writer INTEGER NOT NULL) STRICT",)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weir.db"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    opened = Database(file, COUNTER, busy_timeout=0.1)
    yield opened
    opened.close()


def insert(writer: int) -> Callable[[sqlite3.Connection], int]:
    """A job that inserts a row."""

    def job(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO counter VALUES (?)", (writer,))
        return writer

    return job


def rows(database: Database) -> list[int]:
    with database.read() as connection:
        return [writer for (writer,) in connection.execute("SELECT writer FROM counter ORDER BY rowid")]


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def open_files(folder: Path) -> list[str]:
    links = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return [link.name for link in links if link.is_relative_to(folder)]


class HeldTurn:
    """A write that goes on until it is let go; the writers that come meanwhile wait together."""

    def __init__(self, database: Database, pool: ThreadPoolExecutor) -> None:
        self._begun, self._go = threading.Event(), threading.Event()
        self.result = pool.submit(database.write, self._job)
        assert self._begun.wait(10.0)

    def _job(self, connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO counter VALUES (0)")
        self._begun.set()
        assert self._go.wait(10.0)
        return 0

    def let_go(self) -> None:
        self._go.set()


def test_writers_that_wait_share_one_transaction(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        turn = HeldTurn(database, pool)

        def seen_outside(writer: int) -> list[int]:
            def job(connection: sqlite3.Connection) -> list[int]:
                insert(writer)(connection)
                return rows(database)

            return database.write(job)

        others = [pool.submit(seen_outside, writer) for writer in range(1, 8)]
        until(lambda: len(database._queue) == 7)
        turn.let_go()
        seen = [other.result(10.0) for other in others]
    assert seen == [[0]] * 7, "a writer saw another one's row committed before its own"
    assert sorted(rows(database)) == list(range(8))


def test_jobs_of_one_call_share_one_transaction(database: Database) -> None:
    def seen_outside(connection: sqlite3.Connection) -> int:
        insert(1)(connection)
        return len(rows(database))

    def fails(connection: sqlite3.Connection) -> int:
        insert(99)(connection)
        raise Conflict("no")

    first, failed, last = database.write_all([seen_outside, fails, seen_outside])
    assert (first, type(failed), last) == (0, Conflict, 0)
    assert rows(database) == [1, 1]


def test_a_job_that_raises_is_undone_alone(database: Database) -> None:
    def fails(connection: sqlite3.Connection) -> int:
        insert(99)(connection)
        raise Conflict("no")

    with ThreadPoolExecutor(8) as pool:
        turn = HeldTurn(database, pool)
        jobs = [fails if writer == 4 else insert(writer) for writer in range(1, 8)]
        others = [pool.submit(database.write, job) for job in jobs]
        until(lambda: len(database._queue) == 7)
        turn.let_go()
        refused = [other.exception(10.0) for other in others]
    assert [type(error) for error in refused] == [type(None)] * 3 + [Conflict] + [type(None)] * 3
    assert sorted(rows(database)) == [0, 1, 2, 3, 5, 6, 7]


def test_an_interrupted_group_is_undone_and_each_writer_told(database: Database) -> None:
    def interrupted(connection: sqlite3.Connection) -> int:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(3) as pool:
        turn = HeldTurn(database, pool)
        others = [pool.submit(database.write, job) for job in (insert(1), interrupted)]
        until(lambda: len(database._queue) == 2)
        turn.let_go()
        told = {type(other.exception(10.0)) for other in others}
    assert told == {KeyboardInterrupt, StorageFailed}
    assert database.write(insert(2)) == 2
    assert rows(database) == [0, 2]


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with ThreadPoolExecutor(1) as pool:
        turn = HeldTurn(database, pool)
        assert rows(database) == []
        turn.let_go()
        turn.result.result(10.0)
    assert rows(database) == [0]


def test_a_reader_sees_one_moment(database: Database) -> None:
    count = "SELECT count(*) FROM counter"
    with database.read() as connection:
        before = connection.execute(count).fetchone()
        database.write(insert(1))
        assert connection.execute(count).fetchone() == before == (0,)
    assert rows(database) == [1]


def test_a_durable_write_is_synced_and_a_hint_is_not(database: Database) -> None:
    def synchronous(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    full, normal = 2, 1
    assert database.write(synchronous) == full
    assert database.write(synchronous, durable=False) == normal
    assert database.write(synchronous) == full
    with database.read() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_relaxed_file_syncs_erasures_only_and_says_so(tmp_path: Path) -> None:
    def synchronous(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    full, normal = 2, 1
    with Sqlite(tmp_path / "relaxed.db", relaxed=True) as stores:
        database = stores._database
        assert (database.write(synchronous), database.erase(synchronous)) == (normal, full)
        (why,) = stores.durability.relaxed_because
    assert "WEIR_SQLITE_DURABILITY" in why


def test_a_position_that_a_relaxed_file_lost_is_not_given_again(tmp_path: Path) -> None:
    with Sqlite(tmp_path / "relaxed.db", relaxed=True) as stores:
        stores.log.append(EntryKind.BATCH, "alice", b"kept")
        stores.log.consumed(5)  # a checkpoint knows of entries that are gone
        assert stores.log.tail() == 5
        entry, _ = stores.log.append(EntryKind.BATCH, "alice", b"new")
        assert entry.position == 6
        assert stores.log.read(5, 10) == [entry]
        assert stores.log.backlog().batches == 1


def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(StorageFailed, match="readonly"), database.read() as connection:
        insert(1)(connection)


def test_threads_come_and_go_and_leave_no_connection(database: Database, tmp_path: Path) -> None:
    assert rows(database) == []
    few = len(open_files(tmp_path))
    for _ in range(20):
        thread = threading.Thread(target=rows, args=(database,))
        thread.start()
        thread.join()
    assert len(open_files(tmp_path)) == few
    database.close()
    assert open_files(tmp_path) == []


def test_a_closed_file_says_so(file: Path) -> None:
    with Sqlite(file) as stores:
        pass
    for call in (stores.log.tail, lambda: stores.log.append(EntryKind.BATCH, "ada", b"x")):
        with pytest.raises(StorageFailed, match="closed"):
            call()


def test_another_schema_is_refused_and_left_alone(file: Path) -> None:
    with sqlite3.connect(file) as foreign:
        foreign.execute("CREATE TABLE theirs (x)")
        foreign.execute("PRAGMA user_version = 7")
    foreign.close()
    before = file.read_bytes()
    with pytest.raises(StorageFailed, match=r"weir\.db: expected schema version 3, got 7"):
        Sqlite(file)
    assert file.read_bytes() == before


def test_tables_without_a_version_are_not_ours(file: Path) -> None:
    with sqlite3.connect(file) as foreign:
        foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    with pytest.raises(StorageFailed, match="expected schema version 3, got 0"):
        Sqlite(file)


@pytest.mark.parametrize(("content", "cure"), [(b"no database at all\n" * 100, "name another file"), (None, "folder")])
def test_a_file_that_cannot_be_opened_is_named_with_the_cure(tmp_path: Path, content: bytes | None, cure: str) -> None:
    file = tmp_path / "missing" / "weir.db"
    if content is not None:
        file.parent.mkdir()
        file.write_bytes(content)
    with pytest.raises(StorageFailed, match=rf"weir\.db: .*{cure}"):
        Sqlite(file)
    assert open_files(tmp_path) == []


def test_a_file_that_another_process_holds_is_named(file: Path) -> None:
    with Sqlite(file, busy_timeout=0.05) as stores:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFailed, match="another process"):
            stores.log.append(EntryKind.BATCH, "ada", b"x")
        assert stores.log.tail() == 0
        other.close()
        assert stores.log.append(EntryKind.BATCH, "ada", b"x")[0].position == 1


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_and_keeps_what_was_acknowledged(file: Path) -> None:
    with Sqlite(file) as stores:
        first, _ = stores.log.append(EntryKind.BATCH, "ada", b"first")
        with file_size_limit(1 << 18), pytest.raises(StorageFailed, match="disk"):
            stores.log.append(EntryKind.BATCH, "ada", b"x" * (1 << 20))
        assert stores.log.read(0, 10) == [first]
        second, _ = stores.log.append(EntryKind.BATCH, "ada", b"second")
    with Sqlite(file) as stores:
        assert stores.log.read(0, 10) == [first, second]


def test_an_entry_from_another_process_is_seen_when_the_wait_ends(file: Path) -> None:
    with Sqlite(file) as waits, Sqlite(file) as writes, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waits.log.wait, 0, 0.2)
        writes.log.append(EntryKind.MODE, "root", b"{}")
        assert waiting.result(10.0)


def test_what_is_erased_is_in_no_file_any_more(tmp_path: Path) -> None:
    """Deleted and replaced rows would stay in free pages and in the write-ahead file."""
    secret = b"a very particular secret " * 400  # more than a page
    with Sqlite(tmp_path / "weir.db") as stores:
        entry, _ = stores.log.append(EntryKind.BATCH, "ada", b"L" + secret, samples=1)
        verdict = SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE)
        stores.quarantine.put([Held("b_1", 0, "ada", 0, 1, verdict, b"Q" + secret, 1.0)])
        stores.dead_letters.put(DeadLetter("b_1", 0, 1, "ada", 1, "no", b"D" + secret, 1.0))
        assert any(b"particular" in file.read_bytes() for file in tmp_path.iterdir())
        stores.log.rewrite(entry.id, b"nothing")
        stores.quarantine.drop(["b_1:0"])
        stores.dead_letters.drop(["b_1:0"])
        for file in tmp_path.iterdir():
            assert b"particular" not in file.read_bytes(), file


def test_trimming_the_journal_does_not_go_through_what_stays(tmp_path: Path) -> None:
    def work(stores: Sqlite) -> int:
        """Instructions of SQLite's machine, in tens."""
        tens: list[None] = []
        writer = stores._database._writer
        writer.set_progress_handler(lambda: tens.append(None), 10)
        stores.journal.trim(1)
        writer.set_progress_handler(None, 0)
        return len(tens)

    with Sqlite(tmp_path / "weir.db", relaxed=True) as stores:
        found = []
        for first, end in ((0, 20), (20, 400)):
            for position in range(first, end):
                stores.journal.record(Decision(position + 1, Cursor(position), Cursor(position + 1)))
            found.append(work(stores))
        assert [decision.start for decision in stores.journal.after(Cursor())][:2] == [Cursor(1), Cursor(2)]
    assert found[1] <= found[0]
