"""The dead letters in Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence

from weir.errors import Conflict, NotFound
from weir.stores.base import DeadLetter
from weir.stores.pages import number_of
from weir.stores.redis.connection import ONCE, PAGE, Script, Server
from weir.stores.redis.lease import CHECK_FENCE, Lease

_KEYS = ("dead", "dead:payloads", "dead:retried", "dead:order", "dead:number")
_NAMES = """
local letters, payloads, retried, order, last = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
"""

_PUT = Script(f"""{CHECK_FENCE}{_NAMES}
local id, letter, payload, batch = unpack(ARGV, 2, 5)
if redis.call('HSETNX', letters, id, letter) == 0 then return end
redis.call('HSET', payloads, id, payload)
redis.call('ZADD', order, redis.call('INCR', last), id)
if batch ~= '' then redis.call('HSET', retried, id, batch) end
""")

_RETRIED = Script(f"""{ONCE}{_NAMES}
local id, batch = ARGV[1], ARGV[2]
if redis.call('HEXISTS', letters, id) == 0 then return {{'missing'}} end
if repeated() then return {{'noted'}} end
local before = redis.call('HGET', retried, id)
if before then return {{'before', before}} end
redis.call('HSET', retried, id, batch)
remember()
return {{'noted'}}
""")

_DROP = Script(
    f"""{_NAMES}
local dropped = 0
for _, id in ipairs(ARGV) do
    dropped = dropped + redis.call('HDEL', letters, id)
    redis.call('HDEL', payloads, id)
    redis.call('HDEL', retried, id)
    redis.call('ZREM', order, id)
end
return dropped
""",
    flags="allow-oom",
)


class RedisDeadLetters:
    """Letters by their id; a page's cursor is the number of its last letter in the order of arrival."""

    def __init__(self, server: Server, lease: Lease) -> None:
        self._server = server
        self._lease = lease
        self._keys = [lease.fence_key, *map(server.key, _KEYS)]
        _, self._letters, self._payloads, self._retried, self._order, _ = self._keys

    def put(self, letter: DeadLetter) -> None:
        """See ``DeadLetters.put``."""
        values = (letter.id, _values(letter), letter.payload, letter.retried_as or "")
        self._server.run(_PUT, self._keys, self._lease.fence, *values)

    def get(self, id: str) -> DeadLetter:
        """See ``DeadLetters.get``."""
        hashes = (self._letters, self._retried, self._payloads)
        letter, batch, payload = self._server.together(*(("HGET", hash, id) for hash in hashes))
        if letter is None:
            raise NotFound("dead letter", id)
        return _letter(letter, batch, payload)

    def page(self, after: str | None, limit: int) -> tuple[list[DeadLetter], str | None]:
        """See ``DeadLetters.page``."""
        bounds = (f"({number_of(after)}", "+inf", "BYSCORE", "LIMIT", 0, limit + 1, "WITHSCORES")
        row = self._server.call("ZRANGE", self._order, *bounds)
        ids, more = row[: 2 * limit : 2], len(row) > 2 * limit
        if not ids:
            return [], None
        letters, batches = self._server.together(("HMGET", self._letters, *ids), ("HMGET", self._retried, *ids))
        found = [
            _letter(letter, batch, b"")
            for letter, batch in zip(letters, batches, strict=True)
            if letter is not None  # dropped meanwhile
        ]
        return found, str(int(float(row[2 * limit - 1]))) if more else None

    def retried(self, id: str, batch: str) -> DeadLetter:
        """See ``DeadLetters.retried``."""
        outcome, *before = self._server.run(_RETRIED, [*self._keys, self._server.once()], id, batch)
        if outcome == b"missing":
            raise NotFound("dead letter", id)
        if outcome == b"before":
            raise Conflict(f"dead letter {id!r} was sent anew as {before[0].decode()!r}: look at that batch")
        return self.get(id)

    def waiting(self) -> int:
        """See ``DeadLetters.waiting``."""
        letters, retried = self._server.together(("HLEN", self._letters), ("HLEN", self._retried))
        return int(letters) - int(retried)

    def drop(self, ids: Sequence[str]) -> int:
        """See ``DeadLetters.drop``."""
        return sum(
            int(self._server.run(_DROP, self._keys, *ids[first : first + PAGE])) for first in range(0, len(ids), PAGE)
        )


def _values(letter: DeadLetter) -> str:
    return json.dumps(
        [letter.batch, letter.first, letter.samples, letter.producer, letter.step, letter.error, letter.at]
    )


def _letter(values: bytes, retried_as: bytes | None, payload: bytes) -> DeadLetter:
    batch, first, samples, producer, step, error, at = json.loads(values)
    return DeadLetter(
        batch=batch,
        first=first,
        samples=samples,
        producer=producer,
        step=step,
        error=error,
        payload=payload,
        at=at,
        retried_as=None if retried_as is None else retried_as.decode(),
    )
