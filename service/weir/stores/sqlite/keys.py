"""API keys in SQLite."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from weir.errors import Conflict, NotFound
from weir.stores.base import KeyRecord, Role
from weir.stores.sqlite.database import Database

SCHEMA = (
    """CREATE TABLE key (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        roles TEXT NOT NULL,
        digest TEXT NOT NULL,
        created_at REAL NOT NULL,
        revoked_at REAL
    ) STRICT""",
)
_KEY = "SELECT id, name, roles, digest, created_at, revoked_at FROM key"


class SqliteKeys:
    """Keys by id; a revoked one stays."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: KeyRecord) -> None:
        """See ``Keys.add``."""
        row = (
            *(record.id, record.name, json.dumps(sorted(record.roles))),
            *(record.digest, record.created_at, record.revoked_at),
        )

        def job(connection: sqlite3.Connection) -> None:
            columns = "id, name, roles, digest, created_at, revoked_at"
            statement = f"INSERT INTO key ({columns}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
            if not connection.execute(statement, row).rowcount:
                raise Conflict(f"a key with the id {record.id!r} exists: make a new one")

        self._database.write(job)

    def get(self, id: str) -> KeyRecord | None:
        """See ``Keys.get``."""
        with self._database.read() as connection:
            row = connection.execute(f"{_KEY} WHERE id = ?", (id,)).fetchone()
        return _key(row) if row else None

    def all(self) -> list[KeyRecord]:
        """See ``Keys.all``."""
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(f"{_KEY} ORDER BY created_at, number")]

    def revoke(self, id: str, at: float) -> None:
        """See ``Keys.revoke``; the first revocation stands."""

        def job(connection: sqlite3.Connection) -> None:
            statement = "UPDATE key SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?"
            if not connection.execute(statement, (at, id)).rowcount:
                raise NotFound("key", id)

        self._database.write(job)


def _key(row: tuple[Any, ...]) -> KeyRecord:
    key_id, name, roles, digest, created_at, revoked_at = row
    return KeyRecord(key_id, name, frozenset(map(Role, json.loads(roles))), digest, created_at, revoked_at)
