"""One SQLite file: readers that never wait for a writer, and writers that share transactions and disk syncs."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from weir.errors import StorageFailed, StorageFull, WeirError
from weir.stores.sqlite import segments
from weir.stores.sqlite.segments import Segments

T = TypeVar("T")
Recover = Callable[[Segments, sqlite3.Connection, bool], None]
"""Brings segments and tables together; told whether the tables were changed for this version just now."""

_SCHEMA_VERSION, _EARLIER_VERSION = 3, 2
_IDLE_READERS = 8
# A burst leaves a long write-ahead file behind; when it is next written from its start it is cut back to this.
_WAL_BYTES = 64 * 1024 * 1024
_CURES = {
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_BUSY: "another process holds it: stop that one or try again",
    sqlite3.SQLITE_NOTADB: "it is no database: name another file",
    sqlite3.SQLITE_CORRUPT: "put a sound copy in its place",
    sqlite3.SQLITE_CANTOPEN: "check that its folder exists and may be written",
    sqlite3.SQLITE_READONLY: "let this process write it",
    sqlite3.SQLITE_IOERR: "check its disk and the limit on file size",
}


class _Ticket(Generic[T]):
    """One caller's job in a shared transaction, and what became of it."""

    __slots__ = ("durable", "erases", "error", "job", "result", "settled")
    result: T

    def __init__(self, job: Callable[[sqlite3.Connection], T], *, durable: bool, erases: bool) -> None:
        self.job = job
        self.durable = durable
        self.erases = erases
        self.error: BaseException | None = None
        self.settled = False

    def run(self, connection: sqlite3.Connection) -> None:
        """Do the job; what it raises undoes this job alone, unless SQLite has already undone them all."""
        connection.execute("SAVEPOINT job")
        try:
            self.result = self.job(connection)
        except Exception as error:
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO job")
            self.error = error
        connection.execute("RELEASE job")


class Database:
    """Opens or creates the file at ``path``; ``busy_timeout`` is in seconds.

    ``schema`` makes the tables as the version before had them, and ``changes`` those of this version from them, in a
    file of the version before too. ``recover`` ends the transaction that opens it, told whether it changed the tables.
    ``relaxed`` leaves every sync but an erasure's to the operating system. Raises StorageFailed when the file cannot
    be opened, or was written with another schema.
    """

    def __init__(
        self,
        path: Path,
        schema: Sequence[str],
        *,
        busy_timeout: float,
        changes: Sequence[str] = (),
        recover: Recover = lambda segments, connection, new: None,
        relaxed: bool = False,
    ) -> None:
        self.segments = Segments(Path(f"{path}-payloads"))
        self._path = path
        self._relaxed = relaxed
        self._busy_timeout = busy_timeout
        self._turn = threading.Condition()
        self._queue: list[_Ticket[Any]] = []
        self._writing = False
        self._pragmas: dict[str, str] = {}  # as the writer has them
        self._pool = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._closed = False
        with self._translated():
            self._writer = self._connect()
            try:
                self._prepare(self._writer, schema, changes, recover)
            except BaseException:
                self._writer.close()
                raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment of the database; fetch everything before leaving."""
        with self._translated():
            connection = self._borrow()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                self._give_back(connection)

    def write(self, job: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run ``job`` in a transaction and return its result once that is on the disk.

        Jobs that wait at the same time share one transaction and one sync, in one of their threads; one that raises
        is undone alone. With ``durable=False`` the sync is left to the next durable write: the job survives the end
        of the process, not that of the machine. Raises StorageFailed (StorageFull without space), and then nothing
        was written.
        """
        return self._written(_Ticket(job, durable=durable, erases=False))

    def write_all(self, jobs: Iterable[Callable[[sqlite3.Connection], T]]) -> list[T | WeirError]:
        """Run jobs in one transaction: what ``write`` would return or raise for each, once it is on the disk."""
        tickets = [_Ticket(job, durable=True, erases=False) for job in jobs]
        self._settled(tickets)
        outcomes = map(self._outcome, tickets)
        return [*outcomes]

    def erase(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """The same for a job that erases: what it deletes or replaces is overwritten in the database's files."""
        return self._written(_Ticket(job, durable=True, erases=True))

    def _written(self, ticket: _Ticket[T]) -> T:
        self._settled([ticket])
        outcome = self._outcome(ticket)
        if isinstance(outcome, WeirError):
            raise outcome
        return outcome

    def _settled(self, tickets: Sequence[_Ticket[Any]]) -> None:
        """Return when these are settled, which happens to all of them at once."""
        with self._turn:
            self._queue += tickets
            self._turn.wait_for(lambda: all(ticket.settled for ticket in tickets) or not self._writing)
            group = [] if all(ticket.settled for ticket in tickets) else self._take_turn()
        if group:
            self._settle(group)

    def _outcome(self, ticket: _Ticket[T]) -> T | WeirError:
        """The result of a job, or what became of it instead; raises what nobody foresaw."""
        error = ticket.error
        if error is None:
            return ticket.result
        if isinstance(error, WeirError):
            return error
        if isinstance(error, Exception) and not isinstance(error, sqlite3.Error):
            raise error
        failure = self._failure(error)
        failure.__cause__ = error
        return failure

    def close(self) -> None:
        """Close every connection; whoever comes later gets StorageFailed."""
        with self._turn:
            self._turn.wait_for(lambda: not self._writing)
            with self._pool:
                self._closed = True
                while self._readers:
                    self._readers.pop().close()
            self._writer.close()
            self.segments.close()

    def _take_turn(self) -> list[_Ticket[Any]]:
        """Everyone who waits: the caller writes for them all."""
        self._writing = True
        group, self._queue = self._queue, []
        return group

    def _settle(self, group: Sequence[_Ticket[Any]]) -> None:
        try:
            self._transact(group)
        except BaseException as error:
            for ticket in group:
                ticket.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            with self._turn:
                self._writing = False
                for ticket in group:
                    ticket.settled = True
                self._turn.notify_all()

    def _transact(self, group: Sequence[_Ticket[Any]]) -> None:
        self._check_open()
        connection = self._writer
        self.segments.forget()
        try:
            erases = any(t.erases for t in group)
            synced = erases or (not self._relaxed and any(t.durable for t in group))
            self._set("synchronous", "FULL" if synced else "NORMAL")
            self._set("secure_delete", "ON" if erases else "OFF")
            connection.execute("BEGIN IMMEDIATE")
            for ticket in group:
                ticket.run(connection)
            with self.segments.committing(connection, synced=synced):
                connection.execute("COMMIT")
            if erases:
                self.segments.wipe(connection)
                # The write-ahead file still has the pages as they were.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.rollback()

    def _set(self, pragma: str, value: str) -> None:
        """Set it for the writer, unless it is set so already: the same is asked for over and over."""
        if self._pragmas.get(pragma) != value:
            self._writer.execute(f"PRAGMA {pragma} = {value}")
            self._pragmas[pragma] = value

    def _prepare(
        self,
        connection: sqlite3.Connection,
        schema: Sequence[str],
        changes: Sequence[str],
        recover: Recover,
    ) -> None:
        self._version(connection)  # asked before the first change: a file that is not ours stays as it is
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StorageFailed(f"{self._path}: its disk allows no write-ahead log: use a local disk")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        connection.execute("BEGIN IMMEDIATE")
        version = self._version(connection)
        if version != _SCHEMA_VERSION:
            for statement in (*(() if version else schema), *segments.SCHEMA, *changes):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        recover(self.segments, connection, version != _SCHEMA_VERSION)
        connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the tables that are there; 0 for an empty file."""
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version not in (_SCHEMA_VERSION, _EARLIER_VERSION) and (version, tables) != (0, 0):
            raise StorageFailed(
                f"{self._path}: expected schema version {_SCHEMA_VERSION}, got {version}: "
                "name another file, or use the version of Weir that wrote this one"
            )
        return version

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False)

    def _borrow(self) -> sqlite3.Connection:
        with self._pool:
            self._check_open()
            if self._readers:
                return self._readers.pop()
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        connection.rollback()
        with self._pool:
            if not self._closed and len(self._readers) < _IDLE_READERS:
                self._readers.append(connection)
                return
        connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageFailed(f"{self._path}: it was closed: open it again")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: BaseException | None) -> StorageFailed:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = StorageFull if code == sqlite3.SQLITE_FULL else StorageFailed
        return kind(f"{self._path}: {error or type(error).__name__}: {_CURES.get(code, 'see its cause')}")
