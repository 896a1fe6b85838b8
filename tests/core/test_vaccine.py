"""Experts that tell each attack from trusted evidence: against an independent implementation, and by their effects."""

from __future__ import annotations

import json

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from weir.core.vaccine import FOLDS, RIDGE, Labelled, Scale, Vaccine, folds_of, logistic, mixture
from weir.types import State

CPU = torch.device("cpu")


def draw(n: int, *, seed: int, shift: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Tensor:
    return torch.randn(n, len(shift), generator=torch.Generator().manual_seed(seed)) + torch.tensor(shift)


def logits(weights: Tensor, x: Tensor) -> Tensor:
    return x.double() @ weights[:-1] + weights[-1]


def test_it_separates_what_differs_and_leaves_alone_what_does_not() -> None:
    clean, crafted = draw(400, seed=1), draw(400, seed=2, shift=(3.0, -2.0, 0.0))
    weights = logistic(clean, crafted)
    fresh = [logits(weights, x) for x in (draw(500, seed=3), draw(500, seed=4, shift=(3.0, -2.0, 0.0)))]
    assert float((fresh[0] < 0).double().mean()) > 0.95
    assert float((fresh[1] > 0).double().mean()) > 0.95
    assert weights[0] > 1.0
    assert weights[1] < -0.7
    assert abs(weights[2]) < 0.3


@pytest.mark.parametrize("crafted", [40, 400, 1_300])
def test_it_equals_scikit_learns_ridge_regression_with_balanced_weights(crafted: int) -> None:
    sides = draw(300, seed=1).double(), draw(crafted, seed=2, shift=(1.0, -0.5, 0.0)).double()
    x, y = torch.cat(sides), torch.tensor([0] * 300 + [1] * crafted)
    share = torch.where(y == 1, 300 / crafted, 1.0)
    model = LogisticRegression(C=1 / RIDGE, tol=1e-12, max_iter=10_000)
    model.fit(x.numpy(), y.numpy(), sample_weight=share.numpy())
    expected = [*model.coef_[0], model.intercept_[0]]
    assert logistic(*sides).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_sides_weigh_the_same_however_many_there_are() -> None:
    """Ten times as many of one side change nothing but noise: the bias stays where both are as likely."""
    clean, crafted = draw(400, seed=1), draw(400, seed=2, shift=(1.0, 0.0, 0.0))
    torch.testing.assert_close(logistic(clean, crafted.repeat(10, 1)), logistic(clean, crafted), rtol=1e-6, atol=1e-9)
    same = logistic(clean[:200], clean[200:].repeat(7, 1))
    assert abs(float(logits(same, torch.zeros(1, 3)))) < 0.1


def test_features_of_no_use_do_not_fit_noise() -> None:
    """More features than samples, none of which tells anything: what is learned says next to nothing of fresh ones."""
    noise = torch.zeros(60)
    weights = logistic(draw(40, seed=1, shift=tuple(noise.tolist())), draw(40, seed=2, shift=tuple(noise.tolist())))
    assert float(weights[:-1].norm()) < 1.5
    perfect = logistic(torch.zeros(20, 1), torch.ones(20, 1))  # separable: without a ridge it would run away
    assert bool(perfect.isfinite().all())
    assert 0.5 < float(perfect[0]) < 5.0


def test_the_same_evidence_gives_the_same_bits() -> None:
    clean, crafted = draw(300, seed=1), draw(200, seed=2, shift=(0.5, 0.5, 0.5))
    once = logistic(clean, crafted)
    assert once.dtype == torch.float64
    torch.rand(5)
    assert torch.equal(logistic(clean.clone(), crafted.clone()), once)
    assert torch.equal(logistic(clean.requires_grad_(), crafted), once)
    assert not once.requires_grad


def test_the_scale_keeps_the_order_and_is_linear_within_and_logarithmic_far_out() -> None:
    scale = Scale.of(5 + 2 * draw(4_000, seed=1))
    torch.testing.assert_close(scale.center, torch.full((3,), 5.0), atol=0.15, rtol=0)
    torch.testing.assert_close(scale.spread, torch.full((3,), 2.0), atol=0.15, rtol=0)
    values = torch.cat([5 + 2 * draw(200, seed=2), torch.tensor([[-1e6] * 3, [1e6] * 3])])
    found = scale.standardise(values)
    assert torch.equal(values.argsort(0), found.argsort(0))
    near = torch.full((1, 3), 5.2)
    torch.testing.assert_close(scale.standardise(near), (near - scale.center) / scale.spread, rtol=0.02, atol=1e-3)
    far = scale.standardise(torch.tensor([[2e6] * 3])) - scale.standardise(torch.tensor([[2e3] * 3]))
    torch.testing.assert_close(far, torch.full((1, 3), 1_000.0).log(), rtol=0.01, atol=0)


@pytest.mark.parametrize("value", [0.0, 7.5, -1e6])
def test_a_constant_signal_is_finite_and_says_nothing(value: float) -> None:
    scale = Scale.of(torch.full((50, 2), value))
    assert not scale.standardise(torch.full((3, 2), value)).any()
    moved = scale.standardise(torch.tensor([[value + 10.0, value - 10.0]]))
    assert bool(moved.isfinite().all())
    assert float(moved[0, 0]) > 0 > float(moved[0, 1])


def test_one_outlier_moves_the_scale_little() -> None:
    trusted = draw(199, seed=1)
    spoilt = Scale.of(torch.cat([trusted, torch.full((1, 3), 50.0)]))
    for one, other in zip(Scale.of(trusted), spoilt, strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


def test_the_mixture_is_the_log_of_the_mean_ratio() -> None:
    ratios = torch.tensor([[1.0, 4.0], [0.5, 0.5], [1e-9, 8.0]])
    torch.testing.assert_close(mixture(ratios.log()), torch.tensor([2.5, 0.5, 4.0]).log())
    assert bool(mixture(torch.tensor([[500.0, -500.0]])).isfinite().all())  # exp(500) is not a float


ATTACKS = {"first": (2.5, 0.0, 0.0), "second": (0.0, 0.0, -2.5)}


def spread(evidence: Tensor) -> Labelled:
    """Evidence of as many samples of one class, in all folds."""
    return Labelled(evidence, folds_of(torch.zeros(len(evidence), dtype=torch.int64)))


def fitted() -> Vaccine:
    crafted = {name: draw(200, seed=seed, shift=shift) for seed, (name, shift) in enumerate(ATTACKS.items(), 10)}
    return Vaccine.fit(spread(draw(400, seed=1)), {name: spread(evidence) for name, evidence in crafted.items()})


def test_an_expert_for_each_attack_tells_it_from_clean_and_from_the_other() -> None:
    vaccine = fitted()
    assert vaccine.names == ("first", "second")
    clean = vaccine.logits(draw(1_000, seed=30))
    assert clean.shape == (1_000, 2)
    assert float((clean < 0).float().mean()) > 0.85
    for own, shift in enumerate(ATTACKS.values()):
        found = vaccine.logits(draw(1_000, seed=31 + own, shift=shift))
        assert float((found[:, own] > 0).float().mean()) > 0.85
        assert float((found[:, own] > found[:, 1 - own]).float().mean()) > 0.9


def test_a_log_ratio_is_what_the_densities_say() -> None:
    """Unit normals a distance of one apart: log ratio x − 1/2, which so many samples come close to."""
    clean, crafted = (spread(draw(20_000, seed=seed, shift=(shift,))) for seed, shift in ((1, 0.0), (2, 1.0)))
    vaccine = Vaccine.fit(clean, {"shift": crafted})
    x = torch.linspace(-2, 3, 11)[:, None]
    torch.testing.assert_close(vaccine.logits(x), x - 0.5, atol=0.1, rtol=0)


def test_a_restart_knows_the_same_attacks_bit_for_bit() -> None:
    vaccine = fitted()
    state = vaccine.state()
    again = Vaccine.from_state(State(state.tensors, json.loads(json.dumps(dict(state.values)))), CPU)
    assert again is not None
    assert again.names == vaccine.names
    fresh = draw(20, seed=9)
    assert torch.equal(again.logits(fresh), vaccine.logits(fresh))
    assert torch.equal(again.held_out_logits(spread(fresh)), vaccine.held_out_logits(spread(fresh)))


def test_a_vaccine_of_an_earlier_version_is_none() -> None:
    """It has held nothing out: what it was fitted on would look cleaner than anything that comes."""
    state = fitted().state()
    assert Vaccine.from_state(State({"weights": state.tensors["weights"]}, state.values), CPU) is None


def test_every_class_is_in_all_folds_alike_wherever_its_samples_lie() -> None:
    labels = torch.tensor([2] * 11 + [0, 1] * 20 + [2] * 9)
    folds = folds_of(labels)
    for label, each in ((0, 4), (1, 4), (2, 4)):
        assert torch.bincount(folds[labels == label], minlength=FOLDS).tolist() == [each] * FOLDS


def test_a_fold_is_scored_by_experts_that_have_not_learned_from_it() -> None:
    clean, crafted = spread(draw(100, seed=1)), spread(draw(60, seed=2, shift=(1.0, 0.0, 0.0)))
    vaccine = Vaccine.fit(clean, {"one": crafted})
    found = vaccine.held_out_logits(clean)[:, 0]
    for fold in range(FOLDS):
        mine = clean.folds == fold
        weights = logistic(clean.evidence[~mine], crafted.evidence[crafted.folds != fold])
        torch.testing.assert_close(found[mine].double(), logits(weights, clean.evidence[mine]), rtol=1e-4, atol=1e-5)


def test_what_is_scored_so_looks_like_what_was_never_seen() -> None:
    """Many columns that tell nothing: experts call what they have learned from cleaner than it is."""
    noise = (0.0,) * 40
    known, held_out, fresh = [], [], []
    for seed in range(20):
        clean, crafted = (spread(draw(60, seed=3 * seed + side, shift=noise)) for side in (0, 1))
        vaccine = Vaccine.fit(clean, {"none": crafted})
        known.append(vaccine.logits(clean.evidence).mean())
        held_out.append(vaccine.held_out_logits(clean).mean())
        fresh.append(vaccine.logits(draw(60, seed=3 * seed + 2, shift=noise)).mean())
    means = [float(torch.stack(of).mean()) for of in (known, held_out, fresh)]
    assert means[0] < -0.3
    assert means[1:] == pytest.approx([0.0, 0.0], abs=0.12)


def test_a_strain_whose_parents_are_all_of_one_fold_is_learned_all_the_same() -> None:
    clean, crafted = spread(draw(100, seed=1)), draw(30, seed=2, shift=(3.0, 0.0, 0.0))
    vaccine = Vaccine.fit(clean, {"one": Labelled(crafted, torch.full((30,), 2))})
    assert bool(vaccine.held_out.isfinite().all())
    assert bool((vaccine.held_out[:, 0, 0] > 0.5).all())


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_the_weights_are_as_precise_as_the_evidence(precision: torch.dtype) -> None:
    """Fitted in float64 for equal bits, whatever is judged with them."""
    clean = spread(draw(40, seed=1).to(precision))
    vaccine = Vaccine.fit(clean, {"one": clean})
    assert (vaccine.weights.dtype, vaccine.held_out.dtype) == (precision, precision)
