"""What a checkpoint holds beside the engine: how the model is built, what made it, and the command it answers."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

import weir
from weir.core import Engine
from weir.stores.base import CheckpointInfo, Cursor, Decision, EntryKind, Lineage
from weir.stores.verdicts import pack, unpack
from weir.types import Recipe, SampleRef, SampleVerdict, State

logger = logging.getLogger("weir.trainer")

EARLIER = {"arithmetic": "float32"}  # of checkpoints that do not say it


@dataclass(frozen=True, slots=True)
class Answer:
    """The command that a checkpoint is part of: what is to be journalled of it once the checkpoint is there.

    The checkpoint's cursor is after the command, so that nobody would come to it again after a crash in between.
    """

    entry: str
    kind: EntryKind
    start: Cursor
    result: Mapping[str, Any]
    refs: Sequence[SampleRef] = ()
    verdicts: Sequence[SampleVerdict] = ()

    def decision(self, info: CheckpointInfo) -> Decision:
        """The decision, now that its checkpoint is known."""
        of_checkpoint = asdict(info) if self.kind is EntryKind.CHECKPOINT else {"checkpoint": info.id}
        return Decision(
            step=info.step,
            start=self.start,
            end=info.cursor,
            refs=tuple(self.refs),
            verdicts=tuple(self.verdicts),
            updated=bool(self.refs),
            command=self.entry,
            result={**self.result, **of_checkpoint},
        )

    def to_values(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "entry": self.entry,
            "kind": self.kind.value,
            "start": list(self.start),
            "result": dict(self.result),
            **decided_values(self.refs, self.verdicts),
        }

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> Answer:
        """What ``to_values`` described."""
        start, kind = Cursor(*values["start"]), EntryKind(values["kind"])
        return Answer(values["entry"], kind, start, values["result"], *decided(values))


@dataclass(frozen=True, slots=True)
class Saved:
    """The values of a checkpoint. ``lineage`` is which steps made the weights, ``counters`` what was counted so far."""

    recipe: Recipe
    lineage: Lineage = ()
    counters: Mapping[str, int] = field(default_factory=lambda: {"vetoes": 0, "rollbacks": 0, "dead": 0})
    answer: Answer | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def with_engine(self, engine: Engine) -> State:
        """A whole state."""
        values = {
            "recipe": self.recipe.to_values(),
            "lineage": [list(steps) for steps in self.lineage],
            "counters": dict(self.counters),
            "answer": self.answer.to_values() if self.answer else None,
            "environment": environment(engine),
            "extra": dict(self.extra),
        }
        return State.merge(engine.state().nest("engine"), State({}, values))

    @staticmethod
    def of(state: State) -> Saved:
        """The values in a whole state."""
        values = state.values
        return Saved(
            Recipe.from_values(values["recipe"]),
            [(first, last) for first, last in values["lineage"]],
            dict(values["counters"]),
            Answer.from_values(values["answer"]) if values["answer"] else None,
            values["extra"],
        )


def environment(engine: Engine) -> dict[str, Any]:
    """What the arithmetic depends on: recovery is bit for bit where all of it is the same."""
    return {
        "weir": weir.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": engine.config.device,
        "threads": torch.get_num_threads(),
        "ranks": engine.ranks,
        "arithmetic": engine.arithmetic.value,
    }


def compare_environment(state: State, engine: Engine) -> None:
    """Warn when a checkpoint was written elsewhere."""
    then, now = EARLIER | state.values["environment"], environment(engine)
    changed = [f"{name} was {then.get(name)}, is {now[name]}" for name in now if then.get(name, now[name]) != now[name]]
    if changed:
        logger.warning(
            "recovery follows the journal, but weights may differ in the last bits, scores a little, and a step on the "
            "gate's bound may be undone or kept where it was not: %s",
            ", ".join(changed),
        )


def extended(lineage: Lineage, step: int) -> list[tuple[int, int]]:
    """The lineage of weights after one more step."""
    before = list(lineage)
    if before and before[-1][1] == step - 1:
        return [*before[:-1], (before[-1][0], step)]
    return [*before, (step, step)]


def decided_values(refs: Sequence[SampleRef], verdicts: Sequence[SampleVerdict]) -> dict[str, Any]:
    """Samples and their verdicts, JSON-ready."""
    return {"refs": [[ref.batch, ref.index] for ref in refs], "verdicts": pack(verdicts)}


def decided(values: Mapping[str, Any]) -> tuple[tuple[SampleRef, ...], tuple[SampleVerdict, ...]]:
    """What ``decided_values`` described."""
    return tuple(SampleRef(batch, index) for batch, index in values["refs"]), unpack(values["verdicts"])
