"""What a command changes outside the engine, once it is in the journal; done again, it changes nothing more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress

from weir import codec
from weir.errors import NotFound
from weir.stores import erasure
from weir.stores.base import Decision, Entry, EntryKind, Held, HeldFilter, HeldState, Stores
from weir.types import Batch, SampleRef, SampleVerdict, Verdict

PAGE = 500


def settle(stores: Stores, entry: Entry, decision: Decision) -> None:
    """Carry out what follows from a command's decision."""
    if "error" not in decision.result and entry.kind in SETTLED:
        SETTLED[entry.kind](stores, entry, decision)


def _release(stores: Stores, entry: Entry, decision: Decision) -> None:
    order, state = json.loads(entry.payload), HeldState(decision.result["state"])
    for id in decision.result["ids"]:
        with suppress(NotFound):  # erased since
            stores.quarantine.move(
                id,
                state,
                expect=tuple(HeldState),
                by=order["by"],
                at=entry.created_at,
                relabel=order["label"],
                note=order["note"],
            )


def _replay(stores: Stores, entry: Entry, decision: Decision) -> None:
    """Hold what the replay held, and let go of what it learned."""
    verdicts = dict(zip(decision.refs, decision.verdicts, strict=True))
    for held in _in_state(stores, HeldState.HELD, HeldState.RELEASE_VETOED):
        now = verdicts.get(SampleRef(held.batch, held.index))
        if now is not None and now.verdict is not Verdict.QUARANTINE:
            stores.quarantine.move(
                held.id,
                HeldState.RELEASED,
                expect=tuple(HeldState),
                by=entry.producer,
                at=entry.created_at,
                note="replay",
            )
    by_batch: dict[str, list[tuple[int, SampleVerdict]]] = {}
    for ref, verdict in verdicts.items():
        if verdict.verdict is Verdict.QUARANTINE:
            by_batch.setdefault(ref.batch, []).append((ref.index, verdict))
    for batch, lines in by_batch.items():
        with suppress(NotFound):  # trimmed since the replay read it
            stores.quarantine.put(_newly_held(stores.log.get(batch), lines, entry.created_at, decision.step))
    _rollback(stores, entry, decision)


def _rollback(stores: Stores, entry: Entry, decision: Decision) -> None:
    """Hold again what was released into weights that are gone: a reviewer may let it through once more."""
    for held in _in_state(stores, HeldState.RELEASED):
        lines = {line.index: line for line in stores.journal.samples(held.batch)}
        line = lines.get(held.index)
        if line is not None and line.rolled_back:
            stores.quarantine.move(
                held.id, HeldState.HELD, expect=[HeldState.RELEASED], note=f"{entry.kind} {entry.id}"
            )


def _in_state(stores: Stores, *states: HeldState) -> Iterator[Held]:
    for state in states:
        after: str | None = None
        while True:
            page, after = stores.quarantine.page(HeldFilter(state=state), after, PAGE)
            yield from page
            if after is None:
                break


def _newly_held(entry: Entry, lines: list[tuple[int, SampleVerdict]], at: float, step: int) -> Iterator[Held]:
    batch, kept = codec.load_kept(entry.payload)
    rows = {index: row for row, index in enumerate(kept)}
    for index, verdict in lines:
        row = rows.get(index)
        if row is None:  # erased since the replay read it
            continue
        yield Held(
            batch=entry.id,
            index=index,
            producer=entry.producer,
            label=int(batch.y[row]),
            step=step,
            verdict=verdict,
            payload=codec.encode(Batch(batch.x[row : row + 1], batch.y[row : row + 1])),
            held_at=at,
            sample_id=batch.ids[row] if batch.ids else None,
        )


def _erase(stores: Stores, entry: Entry, decision: Decision) -> None:
    erasure.erase(stores, erasure.Target.of(json.loads(entry.payload)), entry.position)


SETTLED: dict[EntryKind, Callable[[Stores, Entry, Decision], None]] = {
    EntryKind.RELEASE: _release,
    EntryKind.ROLLBACK: _rollback,
    EntryKind.REPLAY: _replay,
    EntryKind.ERASE: _erase,
}
