"""The quarantine in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from weir.errors import Conflict, NotFound
from weir.stores.base import Held, HeldFilter, HeldState, QuarantineSize
from weir.stores.pages import number_of
from weir.stores.sqlite.database import Database
from weir.stores.verdicts import pack, unpack

SCHEMA = (
    """CREATE TABLE held (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        batch TEXT NOT NULL,
        sample INTEGER NOT NULL,
        producer TEXT NOT NULL,
        label INTEGER NOT NULL,
        step INTEGER NOT NULL,
        reason TEXT NOT NULL,
        verdict TEXT NOT NULL,
        held_at REAL NOT NULL,
        sample_id TEXT,
        state TEXT NOT NULL,
        relabel INTEGER,
        resolved_by TEXT,
        resolved_at REAL,
        note TEXT,
        payload BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX held_batch ON held (batch)",
    "CREATE INDEX held_producer ON held (producer, state)",
    "CREATE INDEX held_age ON held (state, held_at)",
)
_FIELDS = (
    "batch, sample, producer, label, step, verdict, held_at, sample_id, state, relabel, resolved_by, resolved_at, note"
)
_FILTERS = ("state", "producer", "reason", "batch", "label")


class SqliteQuarantine:
    """Held samples by their id; a page's cursor is the number of its last sample in the order of arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, samples: Iterable[Held]) -> None:
        """See ``Quarantine.put``."""
        rows = [_row(held) for held in samples]
        statement = f"""
            INSERT INTO held (id, reason, payload, {_FIELDS})
            VALUES ({", ".join("?" * 16)}) ON CONFLICT (id) DO NOTHING"""
        if rows:
            self._database.write(lambda connection: connection.executemany(statement, rows))

    def get(self, id: str) -> Held:
        """See ``Quarantine.get``."""
        with self._database.read() as connection:
            return _find(connection, id)

    def page(self, where: HeldFilter, after: str | None, limit: int) -> tuple[list[Held], str | None]:
        """See ``Quarantine.page``."""
        wanted = {name: getattr(where, name) for name in _FILTERS if getattr(where, name) is not None}
        terms = "".join(f" AND {name} = ?" for name in wanted)
        query = f"SELECT number, X'', {_FIELDS} FROM held WHERE number > ?{terms} ORDER BY number LIMIT ?"
        with self._database.read() as connection:
            rows = connection.execute(query, (number_of(after), *wanted.values(), limit + 1)).fetchall()
        more = len(rows) > limit
        rows = rows[:limit]
        return [_held(row[1:]) for row in rows], str(rows[-1][0]) if more and rows else None

    def move(
        self,
        id: str,
        state: HeldState,
        *,
        expect: Sequence[HeldState],
        by: str | None = None,
        at: float | None = None,
        relabel: int | None = None,
        note: str | None = None,
    ) -> Held:
        """See ``Quarantine.move``."""

        def job(connection: sqlite3.Connection) -> Held:
            seen = _find(connection, id).state
            if seen not in expect:
                raise Conflict(f"sample {id!r} is {seen}, expected {' or '.join(expect)}: look at it again")
            connection.execute(
                "UPDATE held SET state = ?, resolved_by = coalesce(?, resolved_by), "
                "resolved_at = coalesce(?, resolved_at), relabel = coalesce(?, relabel), note = coalesce(?, note) "
                "WHERE id = ?",
                (state, by, at, relabel, note, id),
            )
            return _find(connection, id)

        return self._database.write(job)

    def size(self) -> QuarantineSize:
        """See ``Quarantine.size``."""
        query = "SELECT count(*), min(held_at) FROM held WHERE state = ?"
        with self._database.read() as connection:
            samples, oldest = connection.execute(query, (HeldState.HELD,)).fetchone()
        return QuarantineSize(samples, oldest)

    def held_by(self, producer: str) -> int:
        """See ``Quarantine.held_by``."""
        query = "SELECT count(*) FROM held WHERE producer = ? AND state = ?"
        with self._database.read() as connection:
            return int(connection.execute(query, (producer, HeldState.HELD)).fetchone()[0])

    def expire(self, before: float, *, by: str, at: float, note: str) -> int:
        """See ``Quarantine.expire``."""
        statement = (
            "UPDATE held SET state = ?, resolved_by = ?, resolved_at = ?, note = ? WHERE state = ? AND held_at < ?"
        )
        row = (HeldState.DISCARDED, by, at, note, HeldState.HELD, before)
        return self._database.write(lambda connection: connection.execute(statement, row).rowcount)

    def drop(self, ids: Sequence[str]) -> int:
        """See ``Quarantine.drop``; nothing of the samples stays in the database's files."""
        statement = "DELETE FROM held WHERE id = ?"
        return self._database.erase(lambda connection: sum(connection.execute(statement, (id,)).rowcount for id in ids))

    def drop_resolved(self, before: float) -> int:
        """See ``Quarantine.drop_resolved``."""
        statement = "DELETE FROM held WHERE state IN (?, ?) AND resolved_at < ?"
        row = (HeldState.RELEASED, HeldState.DISCARDED, before)
        return self._database.write(lambda connection: connection.execute(statement, row).rowcount)


def _row(held: Held) -> tuple[object, ...]:
    """The values of one sample, in the order in which they are inserted."""
    return (
        *(held.id, held.verdict.reason, held.payload),
        *(held.batch, held.index, held.producer, held.label, held.step, pack([held.verdict]), held.held_at),
        *(held.sample_id, held.state, held.relabel, held.resolved_by, held.resolved_at, held.note),
    )


def _held(row: tuple[Any, ...]) -> Held:
    payload, batch, index, producer, label, step, verdict, held_at, sample_id, state, *rest = row
    relabel, resolved_by, resolved_at, note = rest
    return Held(
        batch=batch,
        index=index,
        producer=producer,
        label=label,
        step=step,
        verdict=unpack(verdict)[0],
        payload=payload,
        held_at=held_at,
        sample_id=sample_id,
        state=HeldState(state),
        relabel=relabel,
        resolved_by=resolved_by,
        resolved_at=resolved_at,
        note=note,
    )


def _find(connection: sqlite3.Connection, id: str) -> Held:
    row = connection.execute(f"SELECT payload, {_FIELDS} FROM held WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise NotFound("held sample", id)
    return _held(row)
