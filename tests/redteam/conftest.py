"""A small model, burnt in on the bundled digits, and the samples that an attacker of it owns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from torch import Tensor

from weir import datasets
from weir.core import BurnIn, Engine, EngineConfig, GuardConfig, LearnerConfig, burn_in
from weir.datasets import Dataset
from weir.types import Batch, GuardMode, InputSpec, Recipe, SampleRef, State, Step

RECIPE = Recipe("mlp", InputSpec((1, 8, 8), 10, 0.0, 1.0), {"hidden": 64})
CONFIG = EngineConfig(learner=LearnerConfig(lr=0.02, momentum=0.9), guard=GuardConfig(mode=GuardMode.OFF), step_size=1)


@dataclass(frozen=True, slots=True)
class Field:
    """An unguarded learner's state after burn-in, and who has which samples."""

    state: State
    test: Dataset
    validation: Batch
    ammunition: Batch
    stream: Dataset

    @property
    def anchor(self) -> Mapping[str, Tensor]:
        """The weights that the guard measures discrepancy against."""
        return self.state.part("snapshots").part("anchor").tensors

    def engine(self) -> Engine:
        """A learner as burn-in left it."""
        engine = Engine(RECIPE, CONFIG)
        engine.load_state(self.state)
        return engine

    def accuracy(self, engine: Engine) -> float:
        """On samples that neither learner nor attacker has seen."""
        return float((engine.predict(self.test.x).argmax(1) == self.test.y).float().mean())


def learn(engine: Engine, batch: Batch, number: int) -> None:
    """One step on a whole batch."""
    refs = [SampleRef(f"b{number}", index) for index in range(len(batch))]
    engine.process(Step(number, batch.x, batch.y, refs, ["someone"] * len(batch)))


@pytest.fixture(scope="session")
def field() -> Field:
    burn, test, validation, ammunition, stream = datasets.digits().split(60, 400, 72, 100, 400, seed=0)
    engine = burn_in(RECIPE, CONFIG, burn.x, burn.y, plan=BurnIn(epochs=40, batch=25, lr=0.05))
    return Field(engine.state(), test, Batch(validation.x, validation.y), Batch(ammunition.x, ammunition.y), stream)
