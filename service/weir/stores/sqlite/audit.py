"""The audit trail in SQLite."""

from __future__ import annotations

import json

from weir.stores.base import AuditRecord
from weir.stores.sqlite.database import Database

SCHEMA = (
    """CREATE TABLE audit (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT""",
)


class SqliteAudit:
    """Lines in the order in which they were recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, record: AuditRecord) -> None:
        """See ``Audit.record``."""
        statement = "INSERT INTO audit (at, actor, action, target, detail) VALUES (?, ?, ?, ?, ?)"
        row = (record.at, record.actor, record.action, record.target, json.dumps(dict(record.detail)))
        self._database.write(lambda connection: connection.execute(statement, row))

    def recent(self, limit: int) -> list[AuditRecord]:
        """See ``Audit.recent``."""
        query = "SELECT at, actor, action, target, detail FROM audit ORDER BY number DESC LIMIT ?"
        with self._database.read() as connection:
            rows = connection.execute(query, (limit,))
            return [
                AuditRecord(at, actor, action, target, json.loads(detail)) for at, actor, action, target, detail in rows
            ]
