"""The dead letters in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from weir.errors import Conflict, NotFound
from weir.stores.base import DeadLetter
from weir.stores.pages import number_of
from weir.stores.sqlite.database import Database

SCHEMA = (
    """CREATE TABLE dead_letter (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        batch TEXT NOT NULL,
        first INTEGER NOT NULL,
        samples INTEGER NOT NULL,
        producer TEXT NOT NULL,
        step INTEGER NOT NULL,
        error TEXT NOT NULL,
        at REAL NOT NULL,
        retried_as TEXT,
        payload BLOB NOT NULL
    ) STRICT""",
)
_FIELDS = "batch, first, samples, producer, step, error"


class SqliteDeadLetters:
    """Letters by their id; a page's cursor is the number of its last letter in the order of arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, letter: DeadLetter) -> None:
        """See ``DeadLetters.put``."""
        statement = (
            f"INSERT INTO dead_letter (id, {_FIELDS}, payload, at, retried_as) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
        )
        row = (
            *(letter.id, letter.batch, letter.first, letter.samples, letter.producer, letter.step),
            *(letter.error, letter.payload, letter.at, letter.retried_as),
        )
        self._database.write(lambda connection: connection.execute(statement, row))

    def get(self, id: str) -> DeadLetter:
        """See ``DeadLetters.get``."""
        with self._database.read() as connection:
            return _find(connection, id)

    def page(self, after: str | None, limit: int) -> tuple[list[DeadLetter], str | None]:
        """See ``DeadLetters.page``."""
        query = (
            f"SELECT number, {_FIELDS}, X'', at, retried_as FROM dead_letter WHERE number > ? ORDER BY number LIMIT ?"
        )
        with self._database.read() as connection:
            rows = connection.execute(query, (number_of(after), limit + 1)).fetchall()
        more = len(rows) > limit
        rows = rows[:limit]
        return [DeadLetter(*row[1:]) for row in rows], str(rows[-1][0]) if more and rows else None

    def retried(self, id: str, batch: str) -> DeadLetter:
        """See ``DeadLetters.retried``."""

        def job(connection: sqlite3.Connection) -> DeadLetter:
            before = _find(connection, id).retried_as
            if before is not None:
                raise Conflict(f"the dead letter {id!r} was sent anew as {before}: follow that batch")
            connection.execute("UPDATE dead_letter SET retried_as = ? WHERE id = ?", (batch, id))
            return _find(connection, id)

        return self._database.write(job)

    def waiting(self) -> int:
        """See ``DeadLetters.waiting``."""
        with self._database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM dead_letter WHERE retried_as IS NULL").fetchone()[0])

    def drop(self, ids: Sequence[str]) -> int:
        """See ``DeadLetters.drop``; nothing of the samples stays in the database's files."""
        statement = "DELETE FROM dead_letter WHERE id = ?"
        return self._database.erase(lambda connection: sum(connection.execute(statement, (id,)).rowcount for id in ids))


def _find(connection: sqlite3.Connection, id: str) -> DeadLetter:
    query = f"SELECT {_FIELDS}, payload, at, retried_as FROM dead_letter WHERE id = ?"
    row: tuple[Any, ...] | None = connection.execute(query, (id,)).fetchone()
    if row is None:
        raise NotFound("dead letter", id)
    return DeadLetter(*row)
