"""What happens in the demo, in which order, and who has which samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch

from weir import datasets
from weir.core import BurnIn, Engine, EngineConfig, GuardConfig, LearnerConfig, burn_in
from weir.datasets import Dataset
from weir.types import Batch, InputSpec, Recipe


class Phase(StrEnum):
    """A part of the story."""

    BEFORE = "honest stream"
    ACCUMULATE = "accumulative phase"
    TRIGGER = "trigger batch"
    AFTER = "honest stream again"

    @property
    def hostile(self) -> bool:
        """Whether the hostile producer sends now, and not the honest one."""
        return self in (Phase.ACCUMULATE, Phase.TRIGGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All numbers of the story; sizes are in samples, and what the sizes leave over is the honest stream.

    A light burn-in leaves the stream something to teach. Momentum carries the attack from batch to batch: without it
    some seeds lose nothing.
    """

    burn_in: int = 500
    probe: int = 200
    test: int = 400
    validation: int = 72  # what the attacker wants to spoil
    ammunition: int = 125  # what it draws its batches from
    batch: int = 25
    before: int = 10  # honest batches ahead of the attack
    preparations: int = 12  # batches of the accumulative phase
    trigger: int = 100  # samples of the one trigger batch
    judged: int = 5  # evaluations after the trigger, and at the end, of which the median counts
    lr: float = 0.01
    momentum: float = 0.9
    sample_rate: float = 0.02  # a probe set of 200 is too small for 1 %
    epsilon: float = 0.3

    def phases(self, honest: int) -> Iterator[Phase]:
        """The phase of every batch, for a stream of ``honest`` batches."""
        yield from [Phase.BEFORE] * self.before
        yield from [Phase.ACCUMULATE] * self.preparations
        yield Phase.TRIGGER
        yield from [Phase.AFTER] * (honest - self.before)


STANDARD = Plan()


@dataclass(frozen=True, slots=True)
class Parts:
    """Disjoint parts of the bundled digits; the attacker's begins with its validation samples."""

    burn_in: Dataset
    probe: Dataset
    test: Dataset
    attacker: Batch
    stream: tuple[Batch, ...]


def parts(plan: Plan, seed: int) -> Parts:
    """Deal the digits out."""
    digits = datasets.digits()
    sizes = [plan.burn_in, plan.probe, plan.test, plan.validation + plan.ammunition]
    left = (len(digits) - sum(sizes)) // plan.batch * plan.batch
    burn, probe, test, attacker, stream = digits.split(*sizes, left, seed=seed)
    honest = zip(torch.split(stream.x, plan.batch), torch.split(stream.y, plan.batch), strict=True)
    return Parts(burn, probe, test, Batch(attacker.x, attacker.y), tuple(Batch(x, y) for x, y in honest))


def trained(plan: Plan, given: Parts, seed: int, *, at: float) -> Engine:
    """The engine that all services start from: burnt in, with its probe set."""
    recipe = Recipe("mlp", InputSpec((1, 8, 8), given.burn_in.classes, 0.0, 1.0), {"hidden": 64})
    learner = LearnerConfig(lr=plan.lr, momentum=plan.momentum)
    guard = GuardConfig(sample_rate=plan.sample_rate)
    config = EngineConfig(learner=learner, guard=guard, step_size=plan.batch, seed=seed)
    burn = BurnIn(epochs=2, batch=25, lr=0.05)
    engine = burn_in(recipe, config, given.burn_in.x, given.burn_in.y, plan=burn)
    engine.set_probe(given.probe.x, given.probe.y, created_at=at, source="demo")
    return engine
