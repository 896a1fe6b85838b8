"""The shared stores: log, journal, quarantine, publications and all others in one Redis server (7.0 or newer).

The keys, each after ``{prefix}:`` (the braces keep all of them in one slot of a cluster), and how long they live:

- ``schema``, ``fence``: for good. The fence tells who may write as the learner; without it an old one could return.
- ``lease``: ``lease_seconds`` after it was last renewed, so that a learner that died makes room.
- ``log`` (a stream of headers), ``log:payloads``, ``log:ids``: until ``Log.trim`` drops the entry, never by
  themselves: only the learner knows what no checkpoint needs any more.
- ``log:state`` (tail, floor and totals): for good, as positions are never reused.
- ``log:waiting``, ``log:waiting:batches``, ``log:waiting:bytes``: until the delivery is consumed: what the bounds
  count.
- ``idempotency:…``: ``key_retention``, the time in which a producer may repeat itself. They outlive their entries.
- ``journal:…``: until ``Journal.trim``, with the entries they decide on; ``journal:lineage`` for good.
- ``held``, ``held:…``, ``dead``, ``dead:…``: until a reviewer, a retention or an erasure drops the sample;
  ``held:number`` and ``dead:number`` for good, as cursors of pages count on.
- ``audit``, ``keys``, ``keys:…``: for good, as they say who did what and who may.
- ``published``: until the server is restarted; it is in no append-only file, and the learner makes it anew.
- ``once:…``: a minute, in which a call whose answer was lost is tried again.

Beside them the channels ``log:bell``, ``journal:bell`` and ``published:bell`` wake who waits. A user of the server
needs these keys and channels, and the commands of the scripts; with CONFIG GET too, the store can tell what an
acknowledgement is worth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from weir.stores.base import Durability
from weir.stores.redis.audit import RedisAudit
from weir.stores.redis.connection import Server
from weir.stores.redis.dead_letters import RedisDeadLetters
from weir.stores.redis.durability import DurabilityCheck
from weir.stores.redis.journal import RedisJournal
from weir.stores.redis.keys import RedisKeys
from weir.stores.redis.lease import Lease
from weir.stores.redis.listener import Listener
from weir.stores.redis.log import RedisLog
from weir.stores.redis.publications import RedisPublications
from weir.stores.redis.quarantine import RedisQuarantine


class Redis:
    """Opens the stores under ``prefix`` on the server at ``url``; close it, or use it in a ``with``.

    Every write is one script, done on the server when its method returns, and as durable as ``durability`` says; only
    publications never are.
    ``clock`` gives Unix seconds; ``key_retention`` (how long idempotency keys are kept), ``retry_after`` (what a full
    log answers), ``timeout`` (of one try of one call) and ``lease_seconds`` are seconds. Every method may raise
    StorageFailed, and works again once the server does. Raises InvalidSetting for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "weir",
        max_batches: int = 10_000,
        max_bytes: int = 1 << 30,
        producer_max_batches: int | None = None,
        producer_max_bytes: int | None = None,
        key_retention: float = 48 * 3600.0,
        retry_after: float = 1.0,
        timeout: float = 5.0,
        lease_seconds: float = 15.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._server = Server(url, prefix=prefix, timeout=timeout)
        try:
            self._server.prepare()
        except BaseException:
            self._server.close()
            raise
        self._listener = Listener(self._server)
        self._lease = Lease(self._server, seconds=lease_seconds)
        self._durability = DurabilityCheck(self._server)
        self.log = RedisLog(
            self._server,
            self._lease,
            self._listener,
            max_batches=max_batches,
            max_bytes=max_bytes,
            producer_max_batches=producer_max_batches,
            producer_max_bytes=producer_max_bytes,
            key_retention=key_retention,
            retry_after=retry_after,
            clock=clock,
        )
        self.journal = RedisJournal(self._server, self._lease, self._listener)
        self.quarantine = RedisQuarantine(self._server, self._lease)
        self.dead_letters = RedisDeadLetters(self._server, self._lease)
        self.audit = RedisAudit(self._server)
        self.publications = RedisPublications(self._server, self._lease, self._listener)
        self.keys = RedisKeys(self._server)

    @property
    def durability(self) -> Durability:
        """What an acknowledgement is worth, by the settings of the server as it was last connected to."""
        return self._durability.now()

    def owned(self, *, wait: float | None = None) -> AbstractContextManager[None]:
        """A context in which this process is the only learner of the log.

        Waits up to ``wait`` seconds (None: ``lease_seconds``) for another holder's lease to end; raises Conflict when
        it does not.
        """
        return self._lease.held(wait)

    def close(self) -> None:
        """Close every connection; later calls raise StorageFailed."""
        self._listener.close()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
