"""API keys in Redis."""

from __future__ import annotations

import json
from typing import Any

from weir.errors import Conflict, NotFound
from weir.stores.base import KeyRecord, Role
from weir.stores.redis.connection import ONCE, Script, Server

_ADD = Script(f"""{ONCE}
if repeated() then return 1 end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[1])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[3], ARGV[1], ARGV[3]) end
remember()
return 1
""")
# A key that has leaked must be revocable also when memory is full.
_REVOKE = Script(
    """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSETNX', KEYS[3], ARGV[1], ARGV[2])
return 1
""",
    flags="allow-oom",
)


class RedisKeys:
    """Keys by id; a revoked one stays."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._keys = [server.key(name) for name in ("keys", "keys:order", "keys:revoked")]
        self._records, self._order, self._revoked = self._keys

    def add(self, record: KeyRecord) -> None:
        """See ``Keys.add``."""
        values = json.dumps([record.id, record.name, sorted(record.roles), record.digest, record.created_at])
        revoked_at = "" if record.revoked_at is None else repr(record.revoked_at)
        if not self._server.run(_ADD, [*self._keys, self._server.once()], record.id, values, revoked_at):
            raise Conflict(f"a key with the id {record.id!r} exists: make a new one")

    def get(self, id: str) -> KeyRecord | None:
        """See ``Keys.get``."""
        text, revoked_at = self._server.together(("HGET", self._records, id), ("HGET", self._revoked, id))
        return _key(text, revoked_at) if text is not None else None

    def all(self) -> list[KeyRecord]:
        """See ``Keys.all``."""
        ids, texts, revoked = self._server.together(
            ("LRANGE", self._order, 0, -1), ("HGETALL", self._records), ("HGETALL", self._revoked)
        )
        return sorted((_key(texts[id], revoked.get(id)) for id in ids), key=lambda record: record.created_at)

    def revoke(self, id: str, at: float) -> None:
        """See ``Keys.revoke``; the first revocation stands."""
        if not self._server.run(_REVOKE, self._keys, id, repr(at)):
            raise NotFound("key", id)


def _key(text: bytes, revoked_at: Any) -> KeyRecord:
    key_id, name, roles, digest, created_at = json.loads(text)
    revoked = None if revoked_at is None else float(revoked_at)
    return KeyRecord(key_id, name, frozenset(map(Role, roles)), digest, created_at, revoked)
