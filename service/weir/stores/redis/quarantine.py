"""The quarantine in Redis: what is known of a sample, its fate and its payload, each by the sample's id."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from weir.errors import Conflict, NotFound
from weir.stores.base import Held, HeldFilter, HeldState, QuarantineSize
from weir.stores.pages import number_of
from weir.stores.redis import quarantine_scripts as scripts
from weir.stores.redis.connection import PAGE, Server
from weir.stores.redis.lease import Lease
from weir.stores.verdicts import pack, unpack


class RedisQuarantine:
    """Held samples by their id; a page's cursor is the number of its last sample in the order of arrival.

    A page with a filter looks at every sample from its cursor on, without their payloads, until it is full.
    """

    def __init__(self, server: Server, lease: Lease) -> None:
        self._server = server
        self._lease = lease
        self._keys = [lease.fence_key, *map(server.key, scripts.KEYS)]
        _, self._records, self._fates, self._payloads, self._order, self._held, _, self._producers, _ = self._keys

    def put(self, samples: Iterable[Held]) -> None:
        """See ``Quarantine.put``."""
        rest = iter(samples)
        while page := list(islice(rest, PAGE)):
            rows = [value for held in page for value in (held.id, _record(held), _fate(held), held.payload)]
            self._server.run(scripts.PUT, self._keys, self._lease.fence, *rows)

    def get(self, id: str) -> Held:
        """See ``Quarantine.get``."""
        record, fate, payload = self._server.together(
            ("HGET", self._records, id), ("HGET", self._fates, id), ("HGET", self._payloads, id)
        )
        if record is None:
            raise NotFound("held sample", id)
        return _held(record, fate, payload)

    def page(self, where: HeldFilter, after: str | None, limit: int) -> tuple[list[Held], str | None]:
        """See ``Quarantine.page``."""
        found = list(islice(self._matching(where, number_of(after)), limit + 1))
        page = found[:limit]
        return [held for _, held in page], str(page[-1][0]) if page and len(found) > limit else None

    def move(
        self,
        id: str,
        state: HeldState,
        *,
        expect: Sequence[HeldState],
        by: str | None = None,
        at: float | None = None,
        relabel: int | None = None,
        note: str | None = None,
    ) -> Held:
        """See ``Quarantine.move``."""
        change = _fate_of(state, relabel, by, at, note)
        keys = [*self._keys, self._server.once()]
        outcome, *answer = self._server.run(scripts.MOVE, keys, id, change, *expect)
        if outcome == b"missing":
            raise NotFound("held sample", id)
        if outcome == b"elsewhere":
            raise Conflict(f"sample {id!r} is {answer[0].decode()}, expected {' or '.join(expect)}: look at it again")
        return _held(*answer)

    def size(self) -> QuarantineSize:
        """See ``Quarantine.size``."""
        samples, oldest = self._server.together(("ZCARD", self._held), ("ZRANGE", self._held, 0, 0, "WITHSCORES"))
        return QuarantineSize(samples, float(oldest[1]) if oldest else None)

    def held_by(self, producer: str) -> int:
        """See ``Quarantine.held_by``."""
        return int(self._server.call("HGET", self._producers, producer) or 0)

    def expire(self, before: float, *, by: str, at: float, note: str) -> int:
        """See ``Quarantine.expire``."""
        change = _fate_of(HeldState.DISCARDED, None, by, at, note)
        return self._repeat(lambda: self._server.run(scripts.EXPIRE, self._keys, repr(before), change, PAGE))

    def drop(self, ids: Sequence[str]) -> int:
        """See ``Quarantine.drop``."""
        return sum(
            int(self._server.run(scripts.DROP, self._keys, *ids[first : first + PAGE]))
            for first in range(0, len(ids), PAGE)
        )

    def drop_resolved(self, before: float) -> int:
        """See ``Quarantine.drop_resolved``."""
        return self._repeat(lambda: self._server.run(scripts.DROP_RESOLVED, self._keys, repr(before), PAGE))

    def _matching(self, where: HeldFilter, after: int) -> Iterator[tuple[int, Held]]:
        """Samples that a filter chooses, with their numbers, in the order of arrival."""
        while row := self._server.call(
            "ZRANGE", self._order, f"({after}", "+inf", "BYSCORE", "LIMIT", 0, PAGE, "WITHSCORES"
        ):
            ids, numbers = row[::2], [int(float(score)) for score in row[1::2]]
            records, fates = self._server.together(("HMGET", self._records, *ids), ("HMGET", self._fates, *ids))
            for number, record, fate in zip(numbers, records, fates, strict=True):
                if record is not None and _matches(held := _held(record, fate, b""), where):  # None: dropped meanwhile
                    yield number, held
            after = numbers[-1]

    def _repeat(self, change: Callable[[], int]) -> int:
        """Do a page of changes at a time until there are no more; returns how many there were."""
        total = changed = change()
        while changed == PAGE:
            changed = change()
            total += changed
        return total


def _matches(held: Held, where: HeldFilter) -> bool:
    seen = HeldFilter(held.state, held.producer, held.verdict.reason, held.batch, held.label)
    return all(
        wanted is None or wanted == got
        for wanted, got in zip(dataclasses.astuple(where), dataclasses.astuple(seen), strict=True)
    )


def _record(held: Held) -> str:
    """What never changes of a sample."""
    what = [held.producer, held.held_at, held.batch, held.index, held.label, held.step]
    return json.dumps([*what, pack([held.verdict]), held.sample_id])


def _fate(held: Held) -> str:
    return _fate_of(held.state, held.relabel, held.resolved_by, held.resolved_at, held.note)


def _fate_of(state: HeldState, relabel: int | None, by: str | None, at: float | None, note: str | None) -> str:
    """What becomes of a sample; None: as it was."""
    return json.dumps([state, None if relabel is None else str(relabel), by, None if at is None else repr(at), note])


def _held(record: bytes, fate: bytes, payload: bytes) -> Held:
    producer, held_at, batch, index, label, step, verdict, sample_id = json.loads(record)
    state, relabel, by, at, note = json.loads(fate)
    return Held(
        batch=batch,
        index=index,
        producer=producer,
        label=label,
        step=step,
        verdict=unpack(verdict)[0],
        payload=payload,
        held_at=held_at,
        sample_id=sample_id,
        state=HeldState(state),
        relabel=None if relabel is None else int(relabel),
        resolved_by=by,
        resolved_at=None if at is None else float(at),
        note=note,
    )
