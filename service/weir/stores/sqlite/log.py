"""The log in SQLite."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from weir.errors import Conflict, LogFull, NotFound, QuotaExceeded, StorageFailed, WeirError
from weir.stores.base import Backlog, Entry, EntryKind, IdempotencyKey, NewEntry
from weir.stores.bell import Bell
from weir.stores.sqlite import upkeep
from weir.stores.sqlite.database import Database
from weir.stores.sqlite.segments import Place

# Each entry carries the bytes of all deliveries up to and with it, so that how much a trim leaves is a difference of
# two rows; what waits is counted per producer as it comes and as it is consumed. An idempotency key knows its entry's
# header: it outlives the entry.
SCHEMA = (
    """CREATE TABLE log (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        producer TEXT NOT NULL,
        samples INTEGER NOT NULL,
        created_at REAL NOT NULL,
        bytes INTEGER NOT NULL,
        delivered_bytes INTEGER NOT NULL,
        payload BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE reading (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        consumed INTEGER NOT NULL,
        floor INTEGER NOT NULL
    ) STRICT""",
    "INSERT INTO reading VALUES (1, 0, 0)",
    """CREATE TABLE waiting (
        producer TEXT PRIMARY KEY,
        batches INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE idempotency (
        producer TEXT NOT NULL,
        key TEXT NOT NULL,
        digest TEXT NOT NULL,
        position INTEGER NOT NULL,
        entry TEXT NOT NULL,
        kind TEXT NOT NULL,
        samples INTEGER NOT NULL,
        created_at REAL NOT NULL,
        PRIMARY KEY (producer, key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX idempotency_age ON idempotency (created_at)",
)
# A payload is in its row, or at a place in a segment and the row's own is empty.
CHANGES = (
    *(f"ALTER TABLE log ADD COLUMN {name} INTEGER" for name in ("segment", "start", "length", "checksum")),
    "CREATE INDEX log_segment ON log (segment, start) WHERE segment IS NOT NULL",
)
_ENTRY = "SELECT position, id, kind, producer, samples, payload, created_at, segment, start, length, checksum FROM log"
_STALE = "INSERT INTO stale SELECT segment, start, length FROM log WHERE segment IS NOT NULL"
_READS = 3  # what is trimmed or rewritten while it is read is looked up again


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many deliveries, and bytes of them, may wait past the consumed position: in all, and of one producer."""

    batches: int
    bytes: int
    producer_batches: int
    producer_bytes: int


class SqliteLog:
    """Keeps no more past the consumed position than ``bounds`` allow.

    A delivery over the bound on bytes is taken when nothing else waits. ``key_retention`` and ``retry_after`` are
    seconds.
    """

    def __init__(
        self,
        database: Database,
        bounds: Bounds,
        *,
        key_retention: float,
        retry_after: float,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._bounds = bounds
        self._key_retention = key_retention
        self._retry_after = retry_after
        self._clock = clock
        self._bell = Bell()

    def append(
        self,
        kind: EntryKind,
        producer: str,
        payload: bytes,
        *,
        samples: int = 0,
        key: IdempotencyKey | None = None,
    ) -> tuple[Entry, bool]:
        """See ``Log.append``."""
        [outcome] = self.append_all([NewEntry(kind, producer, payload, samples, key)])
        if isinstance(outcome, WeirError):
            raise outcome
        return outcome

    def append_all(self, entries: Sequence[NewEntry]) -> list[tuple[Entry, bool] | WeirError]:
        """See ``Log.append_all``."""
        outcomes = self._database.write_all([partial(self._append, entry) for entry in entries])
        self._bell.ring()
        return outcomes

    def read(self, after: int, limit: int) -> list[Entry]:
        """See ``Log.read``."""
        return self._entries("position > ? ORDER BY position LIMIT ?", after, limit)

    def get(self, id: str) -> Entry:
        """See ``Log.get``."""
        for entry in self._entries("id = ?", id):
            return entry
        raise NotFound("log entry", id)

    def wait(self, after: int, timeout: float) -> bool:
        """See ``Log.wait``."""
        return self._bell.wait(lambda: self.tail() > after, timeout)

    def tail(self) -> int:
        """See ``Log.tail``."""
        with self._database.read() as connection:
            return _tail(connection)

    def consumed(self, position: int) -> None:
        """See ``Log.consumed``.

        A position past the tail is of entries that a crash of the machine took from a relaxed file: it becomes the
        tail, so that nothing new is given a position that the learner believes it has passed.
        """
        self._database.write(partial(_consume, position), durable=False)

    def backlog(self) -> Backlog:
        """See ``Log.backlog``."""
        query = "SELECT created_at FROM log WHERE position > ? AND kind = ? ORDER BY position LIMIT 1"
        with self._database.read() as connection:
            batches, size = _waiting(connection)
            oldest = connection.execute(query, (_consumed(connection), EntryKind.BATCH)).fetchone()
        return Backlog(batches, size, oldest[0] if oldest else None)

    def trim(self, through: int, *, keep_bytes: int) -> int:
        """See ``Log.trim``."""
        floor = self._database.write(partial(_trim, through, keep_bytes))
        upkeep.keep(self._database)
        return floor

    def floor(self) -> int:
        """See ``Log.floor``."""
        with self._database.read() as connection:
            return _floor(connection)

    def rewrite(self, id: str, payload: bytes) -> None:
        """See ``Log.rewrite``."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(f"{_STALE} AND id = ?", (id,))
            # The bytes that the row was counted with stay, for the sums: what is rewritten has about as many.
            statement = "UPDATE log SET payload = ?, segment = NULL, start = NULL, length = NULL, checksum = NULL"
            if not connection.execute(f"{statement} WHERE id = ?", (payload, id)).rowcount:
                raise NotFound("log entry", id)

        self._database.erase(job)

    def _entries(self, where: str, *values: object) -> list[Entry]:
        """Entries with their payloads, wherever those lie."""
        for left in reversed(range(_READS)):
            with self._database.read() as connection:
                rows = connection.execute(f"{_ENTRY} WHERE {where}", values).fetchall()
            try:
                return [self._entry(row) for row in rows]
            except StorageFailed:
                if not left:
                    raise
        raise AssertionError

    def _entry(self, row: Sequence[Any]) -> Entry:
        position, entry_id, kind, producer, samples, payload, created_at, *place = row
        if place[0] is not None:
            payload = self._database.segments.read(Place(*place))
        return Entry(position, entry_id, EntryKind(kind), producer, samples, payload, created_at)

    def _append(self, new: NewEntry, connection: sqlite3.Connection) -> tuple[Entry, bool]:
        kind, producer, payload, samples, key = new.kind, new.producer, new.payload, new.samples, new.key
        now = self._clock()
        if key is not None and (first := self._first(connection, producer, key, now)) is not None:
            return first, False
        delivery = kind is EntryKind.BATCH
        if delivery:
            self._check_room(connection, producer, len(payload))
            _wait(connection, producer, len(payload))
        entry_id = f"{'b' if delivery else 'c'}_{secrets.token_hex(16)}"
        delivered = _delivered(connection, _tail(connection)) + delivery * len(payload)
        place = self._database.segments.place(connection, payload)
        position = connection.execute(
            "INSERT INTO log (id, kind, producer, samples, created_at, bytes, delivered_bytes, "
            "payload, segment, start, length, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(entry_id, kind, producer, samples, now, len(payload), delivered),
                *((b"", *place) if place else (payload, None, None, None, None)),
            ),
        ).lastrowid
        assert position is not None
        if key is not None:
            row = (producer, key.key, key.digest, position, entry_id, kind, samples, now)
            connection.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        if place:
            self._database.segments.take(payload)
        return Entry(position, entry_id, kind, producer, samples, payload, now), True

    def _first(self, connection: sqlite3.Connection, producer: str, key: IdempotencyKey, now: float) -> Entry | None:
        """The entry this key was used for, unless that is longer ago than keys are kept."""
        connection.execute("DELETE FROM idempotency WHERE created_at < ?", (now - self._key_retention,))
        query = (
            "SELECT digest, position, entry, kind, samples, created_at FROM idempotency WHERE producer = ? AND key = ?"
        )
        row = connection.execute(query, (producer, key.key)).fetchone()
        if row is None:
            return None
        digest, position, entry_id, kind, samples, created_at = row
        if digest != key.digest:
            raise Conflict(
                f"the idempotency key {key.key!r} was used with another body: use a new key", code="key_reused"
            )
        return Entry(position, entry_id, EntryKind(kind), producer, samples, b"", created_at)

    def _check_room(self, connection: sqlite3.Connection, producer: str, size: int) -> None:
        bounds = self._bounds
        batches, waiting = _waiting(connection)
        if batches >= bounds.batches or (batches > 0 and waiting + size > bounds.bytes):
            raise LogFull(self._retry_after, f"{batches} batches ({waiting} bytes)")
        batches, waiting = _waiting_of(connection, producer)
        if batches >= bounds.producer_batches or (batches > 0 and waiting + size > bounds.producer_bytes):
            held = f"{batches} batches ({waiting} bytes) of {producer!r} wait, as many as of one producer may"
            raise QuotaExceeded(self._retry_after, held)


def _tail(connection: sqlite3.Connection) -> int:
    """The last position given: rows go, the sequence stays."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'log'").fetchone()
    return int(row[0]) if row else 0


def _consumed(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT consumed FROM reading").fetchone()[0])


def _floor(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT floor FROM reading").fetchone()[0])


def _delivered(connection: sqlite3.Connection, position: int) -> int:
    """Bytes of the deliveries up to and with ``position``."""
    query = "SELECT delivered_bytes FROM log WHERE position <= ? ORDER BY position DESC LIMIT 1"
    row = connection.execute(query, (position,)).fetchone()
    return int(row[0]) if row else 0


def _wait(connection: sqlite3.Connection, producer: str, size: int) -> None:
    """Count one more delivery that waits."""
    statement = (
        "INSERT INTO waiting VALUES (?, 1, ?) "
        "ON CONFLICT (producer) DO UPDATE SET batches = batches + 1, bytes = bytes + excluded.bytes"
    )
    connection.execute(statement, (producer, size))


def _waiting(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many deliveries wait, and their bytes."""
    batches, size = connection.execute("SELECT total(batches), total(bytes) FROM waiting").fetchone()
    return int(batches), int(size)


def _waiting_of(connection: sqlite3.Connection, producer: str) -> tuple[int, int]:
    """How many deliveries of one producer wait, and their bytes."""
    row = connection.execute("SELECT batches, bytes FROM waiting WHERE producer = ?", (producer,)).fetchone()
    return row or (0, 0)


def _consume(position: int, connection: sqlite3.Connection) -> None:
    consumed = _consumed(connection)
    query = (
        "SELECT producer, count(*), sum(bytes) FROM log WHERE position > ? AND position <= ? AND kind = ? "
        "GROUP BY producer"
    )
    for producer, batches, size in connection.execute(query, (consumed, position, EntryKind.BATCH)).fetchall():
        statement = "UPDATE waiting SET batches = batches - ?, bytes = bytes - ? WHERE producer = ?"
        connection.execute(statement, (batches, size, producer))
    connection.execute("DELETE FROM waiting WHERE batches <= 0")
    if position > _tail(connection):
        connection.execute("DELETE FROM sqlite_sequence WHERE name = 'log'")
        connection.execute("INSERT INTO sqlite_sequence VALUES ('log', ?)", (position,))
    connection.execute("UPDATE reading SET consumed = max(consumed, ?)", (position,))


def _trim(through: int, keep_bytes: int, connection: sqlite3.Connection) -> int:
    surplus = _delivered(connection, _tail(connection)) - keep_bytes
    query = "SELECT min(position) FROM log WHERE delivered_bytes >= ?"
    last = connection.execute(query, (surplus,)).fetchone()[0] if surplus > 0 else None
    if last is not None:
        last = min(last, through, _consumed(connection))  # what waits is nobody's to drop
        connection.execute(f"{_STALE} AND position <= ?", (last,))
        connection.execute("DELETE FROM log WHERE position <= ?", (last,))
        connection.execute("UPDATE reading SET floor = max(floor, ?)", (last,))
    return _floor(connection)
