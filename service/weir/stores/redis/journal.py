"""The journal in Redis: decisions by their start, in one order, with an index by batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from weir.stores.base import Cursor, Decision, JournalledSample, Lineage
from weir.stores.redis.connection import Script, Server
from weir.stores.redis.lease import CHECK_FENCE, Lease
from weir.stores.redis.listener import Listener
from weir.stores.verdicts import pack, unpack
from weir.types import SampleRef

_PAGE = 256
_BELL = "journal:bell"
_KEYS = (
    "journal:decisions",
    "journal:heads",
    "journal:order",
    "journal:batches",
    "journal:decided",
    "journal:outcomes",
    "journal:lineage",
)
# A zero and a one: what separates a batch from a start in the index, and what comes right after it in order.
_SPLIT, _PAST = "\0", "\1"

_NAMES = """
local decisions, heads, order, batches = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local decided, outcomes, lineage = KEYS[6], KEYS[7], KEYS[8]
"""

# The learner writes these also when memory is full: what it has decided is what lets the log be trimmed.
_RECORD = Script(
    f"""{CHECK_FENCE}{_NAMES}
local start, body, head, command, result, bell = unpack(ARGV, 2, 7)
if redis.call('HSETNX', decisions, start, body) == 0 then return end
redis.call('HSET', heads, start, head)
redis.call('ZADD', order, 0, start)
for batch, samples in pairs(cjson.decode(head).batches) do
    redis.call('ZADD', batches, 0, batch .. '\\0' .. start)
    if samples > 0 then redis.call('HINCRBY', decided, batch, samples) end
end
if command ~= '' then redis.call('HSETNX', outcomes, command, result) end
redis.pcall('PUBLISH', bell, '')
""",
    flags="allow-oom",
)

_IN_WEIGHTS = Script(
    f"""{CHECK_FENCE}{_NAMES}
local last = math.max(tonumber(ARGV[3]), tonumber(redis.call('HGET', lineage, 'last') or 0))
redis.call('HSET', lineage, 'ranges', ARGV[2], 'last', string.format('%d', last))
""",
    flags="allow-oom",
)

# Goes by the heads alone: it never reads a verdict.
_TRIM = Script(
    f"""{CHECK_FENCE}{_NAMES}
local from, to, floor, page = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local starts = redis.call('ZRANGE', order, from, to, 'BYLEX', 'LIMIT', 0, page)
for _, start in ipairs(starts) do
    local head = cjson.decode(redis.call('HGET', heads, start))
    local position, offset = head['end'][1], head['end'][2]
    if position < floor or (position == floor and offset == 0) then
        for batch, samples in pairs(head.batches) do
            redis.call('ZREM', batches, batch .. '\\0' .. start)
            if samples > 0 and redis.call('HINCRBY', decided, batch, -samples) <= 0 then
                redis.call('HDEL', decided, batch)
            end
        end
        if head.command ~= '' then redis.call('HDEL', outcomes, head.command) end
        redis.call('HDEL', decisions, start)
        redis.call('HDEL', heads, start)
        redis.call('ZREM', order, start)
    end
end
return starts[#starts] or ''
""",
    flags="allow-oom",
)


class RedisJournal:
    """Knows a decision by the cursor it starts at."""

    def __init__(self, server: Server, lease: Lease, listener: Listener) -> None:
        self._server = server
        self._lease = lease
        self._listener = listener
        self._bell = listener.bell(_BELL)
        self._keys = [lease.fence_key, *map(server.key, _KEYS)]
        _, self._decisions, _, self._order, self._batches, self._decided, self._outcomes, self._lineage = self._keys

    def record(self, decision: Decision) -> None:
        """See ``Journal.record``."""
        body, result = json.dumps(_values(decision)), json.dumps(dict(decision.result))
        texts = (_text(decision.start), body, _head(decision), decision.command or "", result)
        self._server.run(_RECORD, self._keys, self._lease.fence, *texts, self._server.key(_BELL))

    def after(self, cursor: Cursor) -> list[Decision]:
        """See ``Journal.after``."""
        found: list[Decision] = []
        bound = f"[{_text(cursor)}"
        while starts := self._server.call("ZRANGE", self._order, bound, "+", "BYLEX", "LIMIT", 0, _PAGE):
            found += self._read(starts)
            bound = f"({starts[-1].decode()}"
        return found

    def samples(self, batch: str) -> list[JournalledSample]:
        """See ``Journal.samples``."""
        bounds = (f"[{batch}{_SPLIT}", f"({batch}{_PAST}", "BYLEX")
        rows, (ranges, ruled) = self._server.together(
            ("ZRANGE", self._batches, *bounds), ("HMGET", self._lineage, "ranges", "last")
        )
        lineage = json.loads(ranges or b"[]")
        starts = [row.decode().rpartition(_SPLIT)[2] for row in rows]
        latest: dict[int, JournalledSample] = {}
        for decision in self._read(starts):
            rolled_back = _is_rolled_back(decision.step, lineage, int(ruled or 0))
            for ref, verdict in zip(decision.refs, decision.verdicts, strict=True):
                if ref.batch == batch:
                    latest[ref.index] = JournalledSample(ref.index, decision.step, verdict, rolled_back)
        return [latest[index] for index in sorted(latest)]

    def outcome(self, entry: str) -> Mapping[str, Any] | None:
        """See ``Journal.outcome``."""
        text = self._server.call("HGET", self._outcomes, entry)
        result: dict[str, Any] | None = json.loads(text) if text is not None else None
        return result

    def wait(self, entry: str, samples: int, timeout: float) -> bool:
        """See ``Journal.wait``."""
        self._listener.start()
        if samples == 0:
            return self._bell.wait(lambda: bool(self._server.call("HEXISTS", self._outcomes, entry)), timeout)
        return self._bell.wait(lambda: int(self._server.call("HGET", self._decided, entry) or 0) >= samples, timeout)

    def in_weights(self, lineage: Lineage, last: int) -> None:
        """See ``Journal.in_weights``; ``last`` does not go back."""
        ranges = json.dumps([list(steps) for steps in lineage])
        self._server.run(_IN_WEIGHTS, self._keys, self._lease.fence, ranges, last)

    def trim(self, floor: int) -> None:
        """See ``Journal.trim``."""
        bound, end = "-", f"({_text(Cursor(floor, 0))}"
        while last := self._server.run(_TRIM, self._keys, self._lease.fence, bound, end, floor, _PAGE):
            bound = f"({last.decode()}"

    def _read(self, starts: list[Any]) -> Iterator[Decision]:
        for first in range(0, len(starts), _PAGE):
            bodies = self._server.call("HMGET", self._decisions, *starts[first : first + _PAGE])
            yield from (_decision(json.loads(body)) for body in bodies if body is not None)  # None: trimmed meanwhile


def _text(cursor: Cursor) -> str:
    """A cursor whose texts sort as cursors do."""
    return f"{cursor.position:020d}:{cursor.offset:020d}"


def _head(decision: Decision) -> str:
    """What the scripts need of a decision; of its batches, how many samples are decided for the first time.

    A command decides on a sample once more: a release.
    """
    samples = Counter(ref.batch for ref in decision.refs)
    batches = {batch: 0 if decision.command else count for batch, count in samples.items()}
    return json.dumps({"end": list(decision.end), "command": decision.command or "", "batches": batches})


def _values(decision: Decision) -> dict[str, Any]:
    runs = groupby(decision.refs, key=lambda ref: ref.batch)
    return {
        "step": decision.step,
        "start": list(decision.start),
        "end": list(decision.end),
        "refs": [[batch, [ref.index for ref in run]] for batch, run in runs],
        "verdicts": pack(decision.verdicts),
        "updated": decision.updated,
        "vetoed": decision.vetoed,
        "command": decision.command,
        "result": dict(decision.result),
    }


def _decision(values: dict[str, Any]) -> Decision:
    return Decision(
        step=values["step"],
        start=Cursor(*values["start"]),
        end=Cursor(*values["end"]),
        refs=tuple(SampleRef(batch, index) for batch, indices in values["refs"] for index in indices),
        verdicts=unpack(values["verdicts"]),
        updated=values["updated"],
        vetoed=values["vetoed"],
        command=values["command"],
        result=values["result"],
    )


def _is_rolled_back(step: int, ranges: Lineage, ruled: int) -> bool:
    return step <= ruled and not any(first <= step <= last for first, last in ranges)
