"""Learning the log again, from a checkpoint and without some of it: what a replay does and publishes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from weir import codec
from weir.core import Engine, EngineConfig
from weir.core.vaccine import Poisoner
from weir.errors import Conflict, NotFound
from weir.stores.base import CheckpointInfo, Cursor, Decision, Entry, EntryKind, Held, HeldFilter, HeldState, Stores
from weir.trainer.cutter import CommandCut, Cutter, StepCut, join
from weir.trainer.saved import Saved, decided, decided_values
from weir.types import (
    GuardMode,
    Reason,
    ReplayOrder,
    ReplayVerdicts,
    SampleRef,
    SampleVerdict,
    State,
    Step,
    Verdict,
)

PAGE = 500
NewEngine = Callable[[State], Engine]
"""An engine of this service's configuration, over the recipe and the state of a checkpoint."""


def engines(config: EngineConfig, poisoner: Poisoner | None) -> NewEngine:
    """Makes engines like the learner's own."""

    def new(state: State) -> Engine:
        engine = Engine(Saved.of(state).recipe, config, poisoner=poisoner, clock=time.perf_counter)
        engine.load_state(state.part("engine"))
        return engine

    return new


class Rerun:
    """An engine that learns the log from a checkpoint on, and what it decided on the way; nothing outside changes.

    Rollbacks, checkpoints, erasures and earlier replays in the log are passed over: a rerun learns everything that its
    order does not leave out. What a reviewer discarded is left out.
    """

    def __init__(
        self,
        stores: Stores,
        new_engine: NewEngine,
        order: ReplayOrder,
        state: State,
        *,
        step: int,
        cursor: Cursor,
    ) -> None:
        self._stores = stores
        self.order = order
        self.saved = Saved.of(state)
        self.engine = new_engine(state)
        self.step = step
        self.left_out = self.held = 0
        self.verdicts: dict[SampleRef, SampleVerdict] = {}
        self._recorded: dict[Cursor, Decision] = {}
        if order.verdicts is ReplayVerdicts.RECORDED:
            self._recorded = {decision.start: decision for decision in stores.journal.after(cursor)}
        self._producers, self._batches, self._samples = map(set, (order.producers, order.batches, order.samples))
        self._cutter = Cutter(stores.log, step_size=self.engine.config.step_size, keep=self._keeps)
        self._cutter.seek(cursor)

    @staticmethod
    def of(stores: Stores, new_engine: NewEngine, order: ReplayOrder) -> Rerun:
        """From the order's checkpoint; raises NotFound, and Conflict when the log does not reach back to it."""
        info, state = stores.checkpoints.load(order.checkpoint)
        check_reach(stores, info.cursor.position, info.id)
        return Rerun(stores, new_engine, order, state, step=info.step, cursor=info.cursor)

    @staticmethod
    def resumed(stores: Stores, new_engine: NewEngine, candidate: str) -> Rerun:
        """From a candidate, where its rerun left off; raises NotFound, and Conflict as ``of`` does."""
        info, state = stores.candidates.load(candidate)
        check_reach(stores, info.cursor.position, info.id)
        extra = Saved.of(state).extra
        order = order_from_values(extra["order"])
        rerun = Rerun(stores, new_engine, order, state, step=info.step, cursor=info.cursor)
        rerun._decide(*decided(extra))
        rerun.left_out = extra["left_out"]
        return rerun

    @property
    def cursor(self) -> Cursor:
        """Where it stands in the log."""
        return self._cutter.cursor

    def advance(self, end: int, *, partial: bool) -> bool:
        """Learn one step, or carry out one command, that lies before or at the position ``end``; False without one.

        Raises Conflict when the log was trimmed past where it stands.
        """
        recorded = self._recorded.pop(self._cutter.cursor, None)
        if recorded is None and self.order.verdicts is ReplayVerdicts.RECORDED:
            return False  # not decided yet: what is on record is all that this kind of rerun goes by
        read = self._cutter.read
        cut = self._cutter.cut(partial=partial, until=recorded.end if recorded else None, end=end)
        check_reach(self._stores, read, "this replay")  # afterwards: what was trimmed meanwhile was passed over
        if cut is None:
            return False
        self.step += 1
        if isinstance(cut, StepCut):
            self._learn(cut, recorded)
        elif isinstance(cut, CommandCut):
            self._command(cut.entry, recorded)
        return True

    def save(self, *, at: float) -> CheckpointInfo:
        """Keep it as a candidate."""
        refs, verdicts = list(self.verdicts), list(self.verdicts.values())
        extra = {"order": asdict(self.order), "left_out": self.left_out, **decided_values(refs, verdicts)}
        state = replace(self.saved, answer=None, extra=extra).with_engine(self.engine)
        reason = f"replay from {self.order.checkpoint}"
        return self._stores.candidates.save(state, step=self.step, cursor=self.cursor, at=at, reason=reason)

    def _learn(self, cut: StepCut, recorded: Decision | None) -> None:
        if not cut.refs:
            return
        verdicts = on_record(cut.refs, recorded)
        if verdicts and verdicts[0].reason is Reason.ERROR:
            self._decide(cut.refs, verdicts)  # it could not be processed then
        else:
            self._process(Step(self.step, cut.x, cut.y, cut.refs, cut.producers), verdicts)

    def _command(self, entry: Entry, recorded: Decision | None) -> None:
        match entry.kind:
            case EntryKind.PROBE:
                batch = codec.load(entry.payload)
                self.engine.set_probe(batch.x, batch.y, created_at=entry.created_at, source=entry.producer)
            case EntryKind.MODE:
                self.engine.set_mode(GuardMode(json.loads(entry.payload)["mode"]))
            case EntryKind.RELEASE:
                self._release(entry, recorded)

    def _release(self, entry: Entry, recorded: Decision | None) -> None:
        """Learn what a reviewer let through, but for what is left out and what was learned without that."""
        outcome, order = self._stores.journal.outcome(entry.id) or {}, json.loads(entry.payload)
        known = [held for held in map(self._held, outcome.get("ids", ())) if held is not None]
        wanted = [held for held in known if self._wanted(held)]
        if wanted:
            step = released_step(wanted, order["label"], self.step, forced=order["force"])
            self._process(step, on_record(step.refs, recorded))

    def _process(self, step: Step, verdicts: Sequence[SampleVerdict] | None) -> None:
        self._decide(step.refs, self.engine.process(step, verdicts).verdicts)

    def _decide(self, refs: Sequence[SampleRef], verdicts: Sequence[SampleVerdict]) -> None:
        for ref, verdict in zip(refs, verdicts, strict=True):
            before = self.verdicts.get(ref)
            self.held += _is_held(verdict) - (before is not None and _is_held(before))
            self.verdicts[ref] = verdict

    def _held(self, id: str) -> Held | None:
        try:
            return self._stores.quarantine.get(id)
        except NotFound:  # its time in quarantine was up
            return None

    def _wanted(self, held: Held) -> bool:
        before = self.verdicts.get(SampleRef(held.batch, held.index))
        learned = before is not None and not _is_held(before)
        return not learned and not self._leaves_out(held.producer, held.batch, held.index)

    def _keeps(self, entry: Entry, index: int) -> bool:
        out = self._leaves_out(entry.producer, entry.id, index)
        self.left_out += out
        return not out

    def _leaves_out(self, producer: str, batch: str, index: int) -> bool:
        return producer in self._producers or batch in self._batches or f"{batch}:{index}" in self._samples


def _is_held(verdict: SampleVerdict) -> bool:
    return verdict.verdict is Verdict.QUARANTINE


def released_step(held: list[Held], label: int | None, number: int, *, forced: bool) -> Step:
    """One step of quarantined samples, with another label if a reviewer gave one."""
    samples = [codec.load(one.payload) for one in held]
    x, y = join([sample.x for sample in samples]), join([sample.y for sample in samples])
    refs, producers = [SampleRef(one.batch, one.index) for one in held], [one.producer for one in held]
    y = y if label is None else y.new_full((len(held),), label)
    return Step(number, x, y, refs, producers, released=True, forced=forced)


def on_record(refs: Sequence[SampleRef], recorded: Decision | None) -> list[SampleVerdict] | None:
    """What was decided on these samples; more may have been in that step."""
    if recorded is None:
        return None
    known = dict(zip(recorded.refs, recorded.verdicts, strict=True))
    return [known[ref] for ref in refs]


def discarded(stores: Stores) -> set[str]:
    """The ids of what reviewers discarded."""
    found: set[str] = set()
    after: str | None = None
    while True:
        page, after = stores.quarantine.page(HeldFilter(state=HeldState.DISCARDED), after, PAGE)
        found |= {held.id for held in page}
        if after is None:
            return found


def check_reach(stores: Stores, position: int, whose: str) -> None:
    """Raise Conflict unless the log still has everything that came after a position."""
    floor = stores.log.floor()
    if position < floor:
        raise Conflict(
            f"the log no longer reaches back to {whose}, which stands at position {position}: it begins after position "
            f"{floor}; take a later checkpoint (WEIR_LOG_KEEP_BYTES sets how much it keeps)",
            code="log_trimmed",
        )


def order_from_values(values: Mapping[str, Any]) -> ReplayOrder:
    """The order that ``asdict`` described."""
    lists = {name: tuple(values[name]) for name in ("producers", "batches", "samples")}
    return ReplayOrder(values["checkpoint"], **lists, verdicts=ReplayVerdicts(values["verdicts"]))
