"""What the learner lets other processes see, in one Redis hash that is in the server's memory alone.

Weights that change every second would fill the append-only file, and each of its syncs would hold up deliveries. So
nothing of this is written there: a server that was restarted has lost it, or has what its file held when it was last
rewritten, and ``say`` tells the learner so. Versions and marks are the server's clock in microseconds: they go up also
over such a loss.
"""

from __future__ import annotations

from weir.stores.base import Heard, PublishedModel
from weir.stores.redis.connection import Script, Server
from weir.stores.redis.lease import CHECK_FENCE, Lease
from weir.stores.redis.listener import Listener

BELL = "published:bell"
KEY = "published"

_MICRO = 1e-6
_BEGIN = f"""{CHECK_FENCE}
redis.set_repl(redis.REPL_NONE)
local published, clock = KEYS[2], redis.call('TIME')
local function number(field) return tonumber(redis.call('HGET', published, field) or 0) end
local function now_after(field)
    return string.format('%.0f', math.max(clock[1] * 1000000 + clock[2], number(field) + 1))
end
"""
_PUT = Script(f"""{_BEGIN}
local version = now_after('version')
redis.call('HSET', published, 'version', version, 'payload', ARGV[2], 'digest', ARGV[3])
return version
""")
# Who watches the learner must hear of it also when memory is full.
_SAY = Script(
    f"""{_BEGIN}
redis.call('HSET', published, 'word', ARGV[2], 'mark', now_after('mark'))
redis.pcall('PUBLISH', ARGV[3], '')
return redis.call('HGET', published, 'version') or '0'
""",
    flags="allow-oom",
)

# A script, since a full server takes no transaction.
_HEARD = Script(
    """
local clock, told = redis.call('TIME'), redis.call('HMGET', KEYS[1], 'word', 'mark', 'version')
return {told[1], told[2], told[3], clock[1], clock[2]}
""",
    flags="no-writes",
)


class RedisPublications:
    """The newest model and the newest word of the learner of one log."""

    def __init__(self, server: Server, lease: Lease, listener: Listener) -> None:
        self._server = server
        self._lease = lease
        self._listener = listener
        self._bell = listener.bell(BELL)
        self._channel = server.key(BELL)
        self._key = server.key(KEY)

    def put(self, payload: bytes, digest: str) -> int:
        """See ``Publications.put``."""
        return int(self._server.run(_PUT, self._keys, self._lease.fence, payload, digest))

    def newest(self) -> PublishedModel | None:
        """See ``Publications.newest``."""
        version, payload, digest = self._server.call("HMGET", self._key, "version", "payload", "digest")
        return None if version is None else PublishedModel(int(version), payload, digest.decode())

    def say(self, word: bytes) -> int:
        """See ``Publications.say``."""
        return int(self._server.run(_SAY, self._keys, self._lease.fence, word, self._channel))

    def heard(self) -> Heard | None:
        """See ``Publications.heard``."""
        word, mark, version, *clock = self._server.run(_HEARD, [self._key])
        if word is None:
            return None
        now = int(clock[0]) + int(clock[1]) * _MICRO
        age = max(0.0, now - int(mark) * _MICRO)
        if version is None:
            return Heard(word, int(mark), age)
        return Heard(word, int(mark), age, int(version), max(0.0, now - int(version) * _MICRO))

    def wait(self, mark: int, timeout: float) -> bool:
        """See ``Publications.wait``."""
        self._listener.start()
        return self._bell.wait(lambda: int(self._server.call("HGET", self._key, "mark") or 0) != mark, timeout)

    @property
    def _keys(self) -> list[str]:
        return [self._lease.fence_key, self._key]
