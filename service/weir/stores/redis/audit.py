"""The audit trail in Redis."""

from __future__ import annotations

import json

from weir.stores.base import AuditRecord
from weir.stores.redis.connection import ONCE, Script, Server

_RECORD = Script(f"""{ONCE}
if repeated() then return end
redis.call('RPUSH', KEYS[1], ARGV[1])
remember()
""")


class RedisAudit:
    """Lines in the order in which they were recorded."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lines = server.key("audit")

    def record(self, record: AuditRecord) -> None:
        """See ``Audit.record``."""
        line = json.dumps([record.at, record.actor, record.action, record.target, dict(record.detail)])
        self._server.run(_RECORD, [self._lines, self._server.once()], line)

    def recent(self, limit: int) -> list[AuditRecord]:
        """See ``Audit.recent``."""
        if limit < 1:
            return []
        lines = self._server.call("LRANGE", self._lines, -limit, -1)
        return [AuditRecord(*json.loads(line)) for line in reversed(lines)]
