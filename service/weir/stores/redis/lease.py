"""Who may write as the learner: a lease that runs out, and a fence that keeps out whoever held it before."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from weir.errors import Conflict, Fenced, StorageFailed
from weir.stores.redis.connection import Script, Server
from weir.stores.redis.failures import FENCED

_POLL_SECONDS = 0.2

CHECK_FENCE = f"""
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
    return redis.error_reply('{FENCED} the log has another owner')
end
"""
"""Lua that begins every write of the learner: its first key is the fence, its first argument the store's own."""

# The fence is the number of the lease and a random word: the number says which came later, the word tells two
# leases apart even when a server that lost its last second counts the same number twice.
_TAKE = Script(
    """
    local fence = redis.call('GET', KEYS[1]) or ''
    local word = string.match(fence, '-(.*)$')
    local owner = redis.call('GET', KEYS[2])
    if owner and word ~= ARGV[1] then
        return {owner, redis.call('PTTL', KEYS[2])}
    end
    if word ~= ARGV[1] then
        fence = string.format('%d-%s', (tonumber(string.match(fence, '^%d+')) or 0) + 1, ARGV[1])
        redis.call('SET', KEYS[1], fence)
    end
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
    return fence
    """,
    flags="allow-oom",
)
_RENEW = Script(f"{CHECK_FENCE} redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])", flags="allow-oom")
_GIVE_BACK = Script(f"{CHECK_FENCE} redis.call('DEL', KEYS[2])", flags="allow-oom")


class Lease:
    """The lease on one log, for ``seconds`` at a time.

    ``fence`` is what this store's writes as the learner are checked against: empty while it does not own the log,
    which is right only as long as nobody ever has.
    """

    def __init__(self, server: Server, *, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._keys = [server.key("fence"), server.key("lease")]
        self.fence = ""

    @property
    def fence_key(self) -> str:
        """The first key of every script that begins with ``CHECK_FENCE``."""
        return self._keys[0]

    @contextmanager
    def held(self, wait: float | None = None) -> Iterator[None]:
        """Own the log, and renew the lease in a thread of its own until the context is left.

        Waits up to ``wait`` seconds (None: as long as a lease lasts) for the lease of a holder that died, or is
        leaving, to end. Raises Conflict with the holder's name while another one has it.
        """
        owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        self.fence = self._take(owner, self._seconds if wait is None else wait)
        left = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(owner, left), name="weir-redis-lease", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            left.set()
            renewer.join()
            fence, self.fence = self.fence, ""
            with suppress(StorageFailed, Fenced):  # what is not given back runs out
                self._server.run(_GIVE_BACK, self._keys, fence)

    def _take(self, owner: str, wait: float) -> str:
        word = secrets.token_hex(8)
        deadline = time.monotonic() + wait
        while True:
            answer = self._server.run(_TAKE, self._keys, word, owner, self._milliseconds)
            if isinstance(answer, bytes):
                return answer.decode()
            holder, left = json.loads(answer[0]), answer[1] / 1000.0
            patience = deadline - time.monotonic()
            if patience <= 0.0:
                raise Conflict(
                    f"process {holder['pid']} on {holder['host']} is the learner of this log, for another {left:.1f} s "
                    "unless it renews its lease: stop it first"
                )
            time.sleep(min(patience, _POLL_SECONDS))

    def _renew(self, owner: str, left: threading.Event) -> None:
        while not left.wait(self._seconds / 3.0):
            try:
                self._server.run(_RENEW, self._keys, self.fence, owner, self._milliseconds)
            except StorageFailed:  # it may come back in time, and the fence guards what is written until then
                continue
            except Fenced:  # the next write says so to who can do something about it
                return

    @property
    def _milliseconds(self) -> int:
        return max(1, round(self._seconds * 1000.0))
