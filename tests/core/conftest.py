"""A small world to learn in: overlapping blobs, models that build in no time, and an engine after burn-in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weir.core import BurnIn, Engine, EngineConfig, GuardConfig, LearnerConfig, burn_in
from weir.core.network import Network
from weir.core.vaccine import Poisoner
from weir.types import InputSpec, Recipe, SampleRef, State, Step, StepReport

torch.set_num_threads(1)

CLASSES = 3
INPUTS = InputSpec((6,), CLASSES, 0.0, 1.0)
IMAGES = InputSpec((1, 8, 8), CLASSES, 0.0, 1.0)
PROBE = 420
# Rates at which a small probe set is enough and a short clean stream raises no alarm.
GUARD = GuardConfig(sample_rate=0.01, step_rate=1e-6, producer_rate=1e-6)


def noisy(inputs: InputSpec) -> nn.Module:
    """Batch norm that keeps running statistics, and dropout: everything that a step can leave a trace in."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, inputs.classes)
    )


def headless(inputs: InputSpec) -> nn.Module:
    """A model without any linear layer."""
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, inputs.classes, 6), nn.Flatten())


def wordy(inputs: InputSpec) -> nn.Module:
    """A model whose last linear layer sees (n, 2, 3) and not (n, features)."""
    return nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, inputs.classes), nn.AvgPool2d((2, 1)), nn.Flatten())


def masked(inputs: InputSpec) -> nn.Module:
    """A model with a constant buffer that is infinite by design."""
    model = nn.Sequential(nn.Linear(6, inputs.classes))
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    return model


MLP = Recipe("mlp", INPUTS, {"hidden": 16})
NOISY = Recipe(f"{__name__}:noisy", INPUTS)


@dataclass(frozen=True)
class World:
    """Everything a test of core needs, ready made."""

    recipe: Recipe = MLP

    def samples(self, n: int, *, seed: int, spread: float = 0.15) -> tuple[Tensor, Tensor]:
        """n samples of overlapping classes in [0, 1], the classes one after the other."""
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(n) % CLASSES
        centres = torch.full((CLASSES, 6), 0.3)
        for label in range(CLASSES):
            centres[label, 2 * label : 2 * label + 2] = 0.7
        x = centres[y] + spread * torch.randn(n, 6, generator=generator)
        return x.clamp(0, 1), y

    def step(
        self, number: int, *, n: int = 20, seed: int | None = None, producer: str = "ann", flipped: int = 0
    ) -> Step:
        """A step of n samples, of which the first ``flipped`` carry a wrong label."""
        x, y = self.samples(n, seed=1_000 + number if seed is None else seed)
        y[:flipped] = (y[:flipped] + 1) % CLASSES
        return self.of(number, x, y, producer=producer)

    def of(self, number: int, x: Tensor, y: Tensor, *, producer: str = "ann", **how: Any) -> Step:
        """Given samples as a step."""
        return Step(number, x, y, [SampleRef(f"b{number}", i) for i in range(len(y))], [producer] * len(y), **how)

    def network(self) -> Network:
        """An untrained network."""
        return Network(self.recipe)

    def config(self, **parts: Any) -> EngineConfig:
        """A config with everything but ``parts`` as these tests like it."""
        liked: dict[str, Any] = {"guard": GUARD, "learner": LearnerConfig(lr=0.02), "step_size": 1}
        return EngineConfig(**liked | parts)

    def engine(self, *, probe: int = PROBE, poisoner: Poisoner | None = None, **parts: Any) -> Engine:
        """An engine after burn-in, with a probe set of so many samples (0: none)."""
        engine = Engine(self.recipe, self.config(**parts), poisoner=poisoner)
        engine.load_state(_burnt_in(self))
        if probe:
            engine.set_probe(*self.samples(probe, seed=11), created_at=0.0, source="tests")
        return engine

    def run(self, engine: Engine, first: int, last: int, **how: Any) -> list[StepReport]:
        """Process the steps ``first`` to ``last`` (inclusive); without the seconds, which nothing depends on."""
        return [replace(engine.process(self.step(n, **how)), seconds={}) for n in range(first, last + 1)]


_STATES: dict[str, State] = {}


def _burnt_in(world: World) -> State:
    key = repr(world.recipe)
    if key not in _STATES:
        engine = burn_in(world.recipe, world.config(), *world.samples(120, seed=10), plan=BurnIn(epochs=8, batch=20))
        _STATES[key] = engine.state()
    return _STATES[key]


@pytest.fixture
def world() -> World:
    """The small world, with a perceptron in it."""
    return World()


@pytest.fixture
def noisy_world() -> World:
    """The small world, with batch norm and dropout in it."""
    return World(NOISY)


@pytest.fixture
def image_recipe() -> Recipe:
    """A residual network with batch norm, as small as they come, for 8×8 images."""
    return Recipe("resnet18", IMAGES, {"width": 2, "pool": False})
