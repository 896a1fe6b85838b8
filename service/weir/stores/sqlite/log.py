"""The log in SQLite."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from functools import partial

from weir.errors import Conflict, LogFull, NotFound
from weir.stores.base import Backlog, Entry, EntryKind, IdempotencyKey
from weir.stores.bell import Bell
from weir.stores.sqlite.database import Database

# Each entry carries how many deliveries, and bytes of them, the log holds up to and with it: the backlog is
# then a difference of two rows, however long it is.
SCHEMA = (
    """CREATE TABLE log (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        producer TEXT NOT NULL,
        samples INTEGER NOT NULL,
        created_at REAL NOT NULL,
        deliveries INTEGER NOT NULL,
        delivered_bytes INTEGER NOT NULL,
        payload BLOB NOT NULL
    ) STRICT""",
    "CREATE TABLE consumed (one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL) STRICT",
    "INSERT INTO consumed VALUES (1, 0)",
    """CREATE TABLE idempotency (
        producer TEXT NOT NULL,
        key TEXT NOT NULL,
        digest TEXT NOT NULL,
        position INTEGER NOT NULL,
        created_at REAL NOT NULL,
        PRIMARY KEY (producer, key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX idempotency_age ON idempotency (created_at)",
)
_ENTRY = "SELECT position, id, kind, producer, samples, payload, created_at FROM log"


class SqliteLog:
    """Keeps at most ``max_batches`` deliveries and ``max_bytes`` of them past the consumed position.

    A delivery over ``max_bytes`` is taken when nothing else waits. ``key_retention`` and ``retry_after`` are seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_batches: int,
        max_bytes: int,
        key_retention: float,
        retry_after: float,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._max_batches = max_batches
        self._max_bytes = max_bytes
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
        entry, new = self._database.write(partial(self._append, kind, producer, payload, samples, key))
        if new:
            self._bell.ring()
        return entry, new

    def read(self, after: int, limit: int) -> list[Entry]:
        """See ``Log.read``."""
        with self._database.read() as connection:
            rows = connection.execute(f"{_ENTRY} WHERE position > ? ORDER BY position LIMIT ?", (after, limit))
            return [_entry(row) for row in rows]

    def get(self, id: str) -> Entry:
        """See ``Log.get``."""
        with self._database.read() as connection:
            row = connection.execute(f"{_ENTRY} WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise NotFound("log entry", id)
        return _entry(row)

    def wait(self, after: int, timeout: float) -> bool:
        """See ``Log.wait``."""
        return self._bell.wait(lambda: self.tail() > after, timeout)

    def tail(self) -> int:
        """See ``Log.tail``."""
        with self._database.read() as connection:
            return _tail(connection)

    def consumed(self, position: int) -> None:
        """See ``Log.consumed``."""
        statement = "UPDATE consumed SET position = max(position, ?)"
        self._database.write(lambda connection: connection.execute(statement, (position,)), durable=False)

    def backlog(self) -> Backlog:
        """See ``Log.backlog``."""
        with self._database.read() as connection:
            return _backlog(connection)

    def _append(
        self,
        kind: EntryKind,
        producer: str,
        payload: bytes,
        samples: int,
        key: IdempotencyKey | None,
        connection: sqlite3.Connection,
    ) -> tuple[Entry, bool]:
        now = self._clock()
        if key is not None and (first := self._first(connection, producer, key, now)) is not None:
            return first, False
        delivery = kind is EntryKind.BATCH
        if delivery:
            self._check_room(_backlog(connection), len(payload))
        batches, size = _delivered(connection, _tail(connection))
        entry_id = f"{'b' if delivery else 'c'}_{secrets.token_hex(16)}"
        totals = (batches + delivery, size + delivery * len(payload))
        position = connection.execute(
            "INSERT INTO log (id, kind, producer, samples, created_at, deliveries, delivered_bytes, payload) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (entry_id, kind, producer, samples, now, *totals, payload),
        ).lastrowid
        assert position is not None
        if key is not None:
            row = (producer, key.key, key.digest, position, now)
            connection.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?)", row)
        return Entry(position, entry_id, kind, producer, samples, payload, now), True

    def _first(self, connection: sqlite3.Connection, producer: str, key: IdempotencyKey, now: float) -> Entry | None:
        """The entry this key was used for, unless that is longer ago than keys are kept."""
        connection.execute("DELETE FROM idempotency WHERE created_at < ?", (now - self._key_retention,))
        query = "SELECT digest, position FROM idempotency WHERE producer = ? AND key = ?"
        row = connection.execute(query, (producer, key.key)).fetchone()
        if row is None:
            return None
        digest, position = row
        if digest != key.digest:
            raise Conflict(
                f"the idempotency key {key.key!r} was used with another body: use a new key", code="key_reused"
            )
        return _entry(connection.execute(f"{_ENTRY} WHERE position = ?", (position,)).fetchone())

    def _check_room(self, waiting: Backlog, size: int) -> None:
        too_large = waiting.batches > 0 and waiting.bytes + size > self._max_bytes
        if waiting.batches >= self._max_batches or too_large:
            raise LogFull(self._retry_after, f"{waiting.batches} batches ({waiting.bytes} bytes)")


def _entry(row: tuple[int, str, str, str, int, bytes, float]) -> Entry:
    position, entry_id, kind, producer, samples, payload, created_at = row
    return Entry(position, entry_id, EntryKind(kind), producer, samples, payload, created_at)


def _tail(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(position), 0) FROM log").fetchone()[0])


def _delivered(connection: sqlite3.Connection, position: int) -> tuple[int, int]:
    """Deliveries up to and with ``position``: how many, and their bytes."""
    query = "SELECT deliveries, delivered_bytes FROM log WHERE position <= ? ORDER BY position DESC LIMIT 1"
    batches, size = connection.execute(query, (position,)).fetchone() or (0, 0)
    return batches, size


def _backlog(connection: sqlite3.Connection) -> Backlog:
    consumed = connection.execute("SELECT position FROM consumed").fetchone()[0]
    batches, size = _delivered(connection, _tail(connection))
    past_batches, past_size = _delivered(connection, consumed)
    query = "SELECT created_at FROM log WHERE position > ? AND kind = ? ORDER BY position LIMIT 1"
    oldest = connection.execute(query, (consumed, EntryKind.BATCH)).fetchone()
    return Backlog(batches - past_batches, size - past_size, oldest[0] if oldest else None)
