"""What every attack keeps to, whatever it does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tests.redteam.conftest import Field
from torch import Tensor, nn

from weir.redteam import (
    Accumulative,
    Attack,
    Aware,
    Drift,
    Insight,
    LabelAttack,
    Once,
    PairwiseFlip,
    Patch,
    RandomFlip,
    Ratchet,
    ThreatModel,
    Trigger,
)

THREAT = ThreatModel(epsilon=0.3, classes=10)
MOVES = ["accumulative", "adaptive", "adaptive trigger", "drift", "once", "patch", "ratchet", "trigger"]
RELABELS = ["pairwise", "patch", "random"]


def moving(name: str, field: Field) -> Attack:
    trigger = Trigger(THREAT, field.validation, 3)
    insight = Insight.of(field.anchor, field.validation, field.ammunition)
    attacks: dict[str, Attack] = {
        "accumulative": Accumulative(trigger, field.ammunition, 3),
        "adaptive": Aware(Accumulative(trigger, field.ammunition, 3), insight, 0.1, 3),
        "adaptive trigger": Aware(trigger, insight, 0.1, 3),
        "drift": Drift(degrees=30, shift=0.1, contrast=1.5),
        "once": Once(trigger),
        "patch": Patch(3),
        "ratchet": Ratchet(THREAT, field.validation),
        "trigger": trigger,
    }
    return attacks[name]


def relabelling(name: str) -> LabelAttack:
    attacks: dict[str, LabelAttack] = {
        "pairwise": PairwiseFlip(10),
        "patch": Patch(3),
        "random": RandomFlip(10, seed=4),
    }
    return attacks[name]


@dataclass(frozen=True)
class World:
    """A model and the attacker's samples, and what they were before anyone touched them."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def untouched(self, field: Field) -> bool:
        """Whether nothing of it has changed."""
        original = field.engine().network.module.state_dict()
        same = all(torch.equal(tensor, original[name]) for name, tensor in self.model.state_dict().items())
        return same and torch.equal(self.x, field.ammunition.x[:12]) and torch.equal(self.y, field.ammunition.y[:12])


@pytest.fixture
def world(field: Field) -> World:
    return World(field.engine().network.module, field.ammunition.x[:12].clone(), field.ammunition.y[:12].clone())


@pytest.mark.parametrize("name", MOVES)
def test_moving_is_deterministic_and_keeps_shape_and_type(name: str, field: Field, world: World) -> None:
    first, second = (THREAT.craft(moving(name, field), world.model, world.x, world.y) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == world.x.shape
    assert first.dtype == world.x.dtype
    assert not torch.equal(first, world.x)


@pytest.mark.parametrize("name", MOVES)
def test_moving_touches_nothing_that_it_was_given(name: str, field: Field, world: World) -> None:
    moving(name, field).perturb(world.model.requires_grad_(True), world.x, world.y)
    assert world.untouched(field)
    assert all(parameter.grad is None for parameter in world.model.parameters())


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("threat", [ThreatModel(epsilon=0.1), ThreatModel(epsilon=1.0, features=4 / 64, fraction=0.5)])
def test_moving_stays_in_the_budget(name: str, threat: ThreatModel, field: Field, world: World) -> None:
    moved = threat.craft(moving(name, field), world.model, world.x, world.y)
    assert float((moved - world.x).abs().max()) <= threat.epsilon + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert int((moved != world.x).flatten(1).sum(1).max()) <= threat.features * 64
    assert int((moved != world.x).flatten(1).any(1).sum()) <= threat.hostile(12)


@pytest.mark.parametrize("name", RELABELS)
def test_relabelling_is_deterministic_and_stays_in_the_budget(name: str, field: Field, world: World) -> None:
    half = ThreatModel(epsilon=0.1, fraction=0.5, classes=10)
    first, second = (half.mislabel(relabelling(name), world.model, world.x, world.y) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.int64
    assert bool((first[:6] != world.y[:6]).any())
    assert torch.equal(first[6:], world.y[6:])
    assert bool(((first >= 0) & (first < 10)).all())
    assert world.untouched(field)


@pytest.mark.parametrize("name", RELABELS)
def test_labels_stay_where_the_budget_has_none(name: str, world: World) -> None:
    assert torch.equal(ThreatModel(epsilon=0.1).mislabel(relabelling(name), world.model, world.x, world.y), world.y)


@pytest.mark.parametrize("name", MOVES)
def test_an_attack_is_named_by_its_configuration(name: str, field: Field) -> None:
    named = repr(moving(name, field))
    assert named == repr(moving(name, field))
    assert "tensor" not in named
    assert " at 0x" not in named
