"""The log in Redis: a stream of headers, and the payloads beside it.

A stream never lets go of the bytes of one entry while its neighbours stay (XDEL only marks them, in memory and in
the server's files), so an erased payload would outlive its erasure there. In a hash it can be overwritten.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from weir.errors import Conflict, LogFull, NotFound, QuotaExceeded, WeirError
from weir.stores.base import Backlog, Entry, EntryKind, IdempotencyKey, NewEntry
from weir.stores.redis import log_scripts as scripts
from weir.stores.redis.connection import PAGE, Server
from weir.stores.redis.lease import Lease
from weir.stores.redis.listener import Listener


class RedisLog:
    """Keeps at most ``max_batches`` deliveries and ``max_bytes`` of them past the consumed position.

    Of these one producer has at most ``producer_max_batches`` and ``producer_max_bytes`` (None: no bound of its own).
    A delivery over a bound of bytes is taken when nothing else waits under that bound. ``key_retention`` and
    ``retry_after`` are seconds.
    """

    def __init__(
        self,
        server: Server,
        lease: Lease,
        listener: Listener,
        *,
        max_batches: int,
        max_bytes: int,
        producer_max_batches: int | None,
        producer_max_bytes: int | None,
        key_retention: float,
        retry_after: float,
        clock: Callable[[], float],
    ) -> None:
        self._server = server
        self._lease = lease
        self._listener = listener
        self._bell = listener.bell(scripts.BELL)
        self._bounds = (max_batches, max_bytes, _bound(producer_max_batches), _bound(producer_max_bytes))
        self._key_retention = key_retention
        self._retry_after = retry_after
        self._clock = clock
        self._keys = [lease.fence_key, *map(server.key, scripts.KEYS)]
        _, self._state, self._stream, self._payloads, self._ids, *_ = self._keys

    def append(
        self,
        kind: EntryKind,
        producer: str,
        payload: bytes,
        *,
        samples: int = 0,
        key: IdempotencyKey | None = None,
    ) -> tuple[Entry, bool]:
        """See ``Log.append``."""
        [outcome] = self.append_all([NewEntry(kind, producer, payload, samples, key)])
        if isinstance(outcome, WeirError):
            raise outcome
        return outcome

    def append_all(self, entries: Sequence[NewEntry]) -> list[tuple[Entry, bool] | WeirError]:
        """See ``Log.append_all``; the server syncs its file once for what comes in one go."""
        calls = [self._call(new) for new in entries]
        answers = self._server.run_all(scripts.APPEND, calls)
        return [
            answer if isinstance(answer, WeirError) else self._outcome(new, header, *answer)
            for new, (_, (_, header, *_)), answer in zip(entries, calls, answers, strict=True)
        ]

    def read(self, after: int, limit: int) -> list[Entry]:
        """See ``Log.read``."""
        entries: list[Entry] = []
        while len(entries) < limit:
            count = min(PAGE, limit - len(entries))
            page = self._server.call("XRANGE", self._stream, f"({max(0, after)}", "+", "COUNT", count)
            if not page:
                break
            positions = [_position(row) for row in page]
            payloads = self._server.call("HMGET", self._payloads, *positions)
            entries += [
                _entry(position, header[b"header"], payload)
                for position, (_, header), payload in zip(positions, page, payloads, strict=True)
                if payload is not None  # trimmed in between
            ]
            after = positions[-1]
        return entries

    def get(self, id: str) -> Entry:
        """See ``Log.get``."""
        position = self._server.call("HGET", self._ids, id)
        if position is not None:
            number = int(position)
            rows, payload = self._server.together(
                ("XRANGE", self._stream, number, number), ("HGET", self._payloads, number)
            )
            if rows:
                return _entry(number, rows[0][1][b"header"], payload)
        raise NotFound("log entry", id)

    def wait(self, after: int, timeout: float) -> bool:
        """See ``Log.wait``."""
        self._listener.start()
        return self._bell.wait(lambda: self.tail() > after, timeout)

    def tail(self) -> int:
        """See ``Log.tail``."""
        return int(self._server.call("HGET", self._state, "tail") or 0)

    def consumed(self, position: int) -> None:
        """See ``Log.consumed``.

        A position past the tail is of entries that a server with relaxed durability has lost: it becomes the tail, so
        that nothing new is given a position that the learner believes it has passed.
        """
        while self._server.run(scripts.CONSUMED, self._keys, self._lease.fence, position, PAGE):
            pass

    def backlog(self) -> Backlog:
        """See ``Log.backlog``."""
        batches, size, header = self._server.run(scripts.BACKLOG, self._keys)
        return Backlog(batches, int(size), json.loads(header)[-1] if header else None)

    def trim(self, through: int, *, keep_bytes: int) -> int:
        """See ``Log.trim``."""
        more = 1
        while more:
            more, floor = self._server.run(
                scripts.TRIM, self._keys, self._lease.fence, max(0, through), keep_bytes, PAGE
            )
        return int(floor)

    def floor(self) -> int:
        """See ``Log.floor``."""
        return int(self._server.call("HGET", self._state, "floor") or 0)

    def rewrite(self, id: str, payload: bytes) -> None:
        """See ``Log.rewrite``; the entry goes on counting as the bytes that were delivered.

        The old bytes leave the server's append-only file when it is next rewritten (BGREWRITEAOF).
        """
        if not self._server.run(scripts.REWRITE, self._keys, id, payload):
            raise NotFound("log entry", id)

    def _call(self, new: NewEntry) -> tuple[Sequence[str], Sequence[Any]]:
        """The keys and the arguments of an append."""
        now, delivery = self._clock(), new.kind is EntryKind.BATCH
        # The id is made here, so that the second try of a lost call finds what the first one wrote.
        entry_id = f"{'b' if delivery else 'c'}_{secrets.token_hex(16)}"
        header = json.dumps([entry_id, new.kind, new.producer, new.samples, len(new.payload), now])
        keys = [*self._keys, *self._record_of(new.producer, new.key)]
        identity = (new.key.digest, now, self._key_retention) if new.key else ()
        bell = self._server.key(scripts.BELL)
        about = (entry_id, header, new.payload, int(delivery), new.producer, len(new.payload), bell)
        return keys, (*about, *self._bounds, *identity)

    def _outcome(self, new: NewEntry, header: str, outcome: bytes, *answer: Any) -> tuple[Entry, bool] | WeirError:
        if outcome == b"new":
            return _entry(int(answer[0]), header, new.payload), True
        if outcome == b"known":
            return _entry(int(answer[0]), answer[1], b""), False
        return self._refusal(outcome, answer, new.producer, new.key)

    def _record_of(self, producer: str, key: IdempotencyKey | None) -> list[str]:
        """The name of the record of an idempotency key: a digest, as both of its parts are the producer's words."""
        if key is None:
            return []
        name = hashlib.sha256(json.dumps([producer, key.key]).encode()).hexdigest()
        return [self._server.key(f"idempotency:{name}")]

    def _refusal(self, outcome: bytes, waiting: Sequence[Any], producer: str, key: IdempotencyKey | None) -> WeirError:
        if key is not None and outcome == b"reused":
            return Conflict(
                f"the idempotency key {key.key!r} was used with another body: use a new key", code="key_reused"
            )
        batches, size = waiting
        if outcome == b"quota":
            return QuotaExceeded(
                self._retry_after, f"{batches} batches ({size} bytes) of the producer {producer!r} wait, as many as may"
            )
        return LogFull(self._retry_after, f"{batches} batches ({size} bytes)")


def _bound(limit: int | None) -> int | str:
    return "" if limit is None else limit


def _position(row: tuple[bytes, Any]) -> int:
    return int(row[0].partition(b"-")[0])


def _entry(position: int, header: str | bytes, payload: bytes) -> Entry:
    entry_id, kind, producer, samples, _, created_at = json.loads(header)
    return Entry(position, entry_id, EntryKind(kind), producer, samples, payload, created_at)
