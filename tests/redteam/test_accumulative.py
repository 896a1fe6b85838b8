"""The attack does what its source says it does, and it bites."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tests.redteam.conftest import Field, learn
from torch import Tensor, nn

from weir.redteam.accumulative import Accumulative, Once, Trigger
from weir.redteam.gradients import gradients, inner, units
from weir.redteam.threat import ThreatModel
from weir.types import Batch

THREAT = ThreatModel(epsilon=0.3)


class Run(NamedTuple):
    """Accuracies of an attacked learner and of its reference, and the attacked one's weights."""

    before_trigger: float
    after: float
    reference: float
    weights: dict[str, Tensor]


def cosines(model: nn.Module, first: Batch, second: Batch) -> float:
    both = (units(gradients(model, batch.x, batch.y)) for batch in (first, second))
    return float(inner(*both))


def descended(model: nn.Module, batch: Batch, lr: float) -> nn.Module:
    """A copy of the model after one plain step."""
    copy = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    copy.load_state_dict(model.state_dict())
    slopes = gradients(copy, batch.x, batch.y)
    with torch.no_grad():
        for parameter, slope in zip(copy.parameters(), slopes, strict=True):
            parameter.sub_(slope, alpha=lr)
    return copy


def attacked(field: Field) -> Run:
    """Five honest batches, eight accumulative ones, the trigger twice, and one more honest batch."""
    engine, reference = field.engine(), field.engine()
    honest = [
        Batch(*pair) for pair in zip(torch.split(field.stream.x, 20), torch.split(field.stream.y, 20), strict=True)
    ]
    trigger = Trigger(THREAT, field.validation)
    accumulative = Accumulative(trigger, field.ammunition)
    for number in range(5):
        learn(engine, honest[number], number)
        learn(reference, honest[number], number)
    for number in range(8):
        at = slice(10 * number, 10 * number + 20)
        x, y = field.ammunition.x[at], field.ammunition.y[at]
        learn(engine, Batch(THREAT.craft(accumulative, engine.network.module, x, y), y), 100 + number)
    before_trigger = field.accuracy(engine)
    for strike in range(2):
        x, y = field.ammunition.x, field.ammunition.y
        x = THREAT.craft(trigger, engine.network.module, x, y)
        for part in range(5):
            at = slice(20 * part, 20 * part + 20)
            learn(engine, Batch(x[at], y[at]), 200 + 10 * strike + part)
    learn(engine, honest[5], 5)
    learn(reference, honest[5], 5)
    return Run(before_trigger, field.accuracy(engine), field.accuracy(reference), engine.network.snapshot())


def test_a_trigger_turns_away_from_the_validation_gradient_as_far_as_it_may() -> None:
    # With zero weights the gradient of (x, y) is (½ − onehot y) ⊗ x, so the cosine is that of the two inputs.
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    trigger = Trigger(THREAT, Batch(torch.tensor([[1.0, 0.0]]), torch.tensor([0])))
    moved = THREAT.craft(trigger, model, torch.tensor([[0.6, 0.6]]), torch.tensor([0]))
    torch.testing.assert_close(moved, torch.tensor([[0.3, 0.9]]))


def test_a_trigger_of_real_samples_opposes_what_is_to_be_spoilt(field: Field) -> None:
    model = field.engine().network.module
    ammunition = field.ammunition
    crafted = Batch(THREAT.craft(Trigger(THREAT, field.validation), model, ammunition.x, ammunition.y), ammunition.y)
    assert cosines(model, ammunition, field.validation) > 0.5
    assert cosines(model, crafted, field.validation) < 0


def test_a_step_on_an_accumulative_batch_makes_the_trigger_oppose_more(field: Field) -> None:
    model = field.engine().network.module
    trigger = Trigger(THREAT, field.validation)
    ammunition = field.ammunition
    armed = Batch(THREAT.craft(trigger, model, ammunition.x, ammunition.y), ammunition.y)
    clean = Batch(ammunition.x[:20], ammunition.y[:20])
    crafted = Batch(THREAT.craft(Accumulative(trigger, ammunition), model, clean.x, clean.y), clean.y)
    before = cosines(model, armed, field.validation)
    after = cosines(descended(model, crafted, 0.02), armed, field.validation)
    usual = cosines(descended(model, clean, 0.02), armed, field.validation)
    assert after < before
    assert after < usual


def test_the_attack_bites_an_unguarded_learner_at_the_trigger(field: Field) -> None:
    run = attacked(field)
    assert run.after <= run.before_trigger - 0.05
    assert run.after <= run.reference - 0.05


def test_the_same_attack_twice_ends_in_the_same_weights(field: Field) -> None:
    first, second = attacked(field), attacked(field)
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def test_an_attack_is_named_by_its_configuration_and_not_by_its_samples(field: Field) -> None:
    named = repr(Accumulative(Trigger(THREAT, field.validation, 3), field.ammunition, 4, 0.5))
    assert "epsilon=0.3" in named
    assert "steps=3" in named
    assert "disguise=0.5" in named
    assert "tensor" not in named


def test_in_train_mode_both_phases_are_crafted_with_the_statistics_of_the_batch(field: Field) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).eval()
    x, y = field.ammunition.x[:20], field.ammunition.y[:20]
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for make in (_trigger, _accumulative):
        usual, trained = (THREAT.craft(make(field, train_mode), model, x, y) for train_mode in (False, True))
        assert not torch.equal(usual, trained)
        again = make(field, True).perturb(model, x, y)
        assert torch.equal(again, trained)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


def _trigger(field: Field, train_mode: bool) -> Trigger:
    return Trigger(THREAT, field.validation, 3, train_mode)


def _accumulative(field: Field, train_mode: bool) -> Accumulative:
    return Accumulative(_trigger(field, train_mode), field.ammunition, 3, train_mode=train_mode)


def test_a_trigger_that_is_crafted_once_stays_as_it_was_and_is_what_the_preparation_aims_at(field: Field) -> None:
    first, later = field.engine(), field.engine()
    learn(later, Batch(field.stream.x[:100], field.stream.y[:100]), 0)
    models = [engine.network.module for engine in (first, later)]
    x, y = field.ammunition.x, field.ammunition.y
    trigger = Trigger(THREAT, field.validation)
    once = Once(trigger)
    kept = [THREAT.craft(once, model, x, y) for model in models]
    assert torch.equal(*kept)
    assert not torch.equal(kept[1], THREAT.craft(trigger, models[1], x, y))
    fixed, anew = (
        Accumulative(trigger, field.ammunition, strike=strike).perturb(models[1], x[:20], y[:20])
        for strike in (once, None)
    )
    assert not torch.equal(fixed, anew)
