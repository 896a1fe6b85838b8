"""The rebuilt score, on evidence that can be checked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weir.core.reference import Reference
from weir.redteam.surrogate import Ranks, Surrogate

CLEAN = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)).exp()  # heavy tails, as losses have
SHIFT = torch.tensor([5.0, 0.0, 0.0])


def evidence(n: int = 200, *, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).exp()


def test_ranks_are_the_guards_normal_scores_but_have_a_slope() -> None:
    values = CLEAN.quantile(torch.linspace(0.1, 0.9, 9), dim=0).requires_grad_(True)
    scores = Ranks(CLEAN)(values)
    torch.testing.assert_close(scores, Reference(CLEAN).normal_scores(values.detach()), atol=0.1, rtol=0)
    (slope,) = torch.autograd.grad(scores.sum(), values)
    assert bool((slope > 0).all())


def test_beyond_the_clean_samples_ranks_go_straight_on() -> None:
    far = CLEAN.max(0).values * torch.tensor([[2.0], [4.0], [6.0]])
    scores = Ranks(CLEAN)(far)
    torch.testing.assert_close(scores[1] - scores[0], scores[2] - scores[1])
    assert bool((scores[1] > scores[0]).all())


def test_a_signal_that_is_always_nought_keeps_every_slope_finite() -> None:
    clean = CLEAN.clone()
    clean[:, 1] = 0.0
    values = clean[:5].clone().requires_grad_(True)
    suspicion = Surrogate.classifying(clean, evidence()).suspicion(values)
    (slope,) = torch.autograd.grad(suspicion, values)
    assert bool(slope.isfinite().all())


def test_classifying_weighs_the_signal_that_tells_them_apart() -> None:
    fitted = Surrogate.classifying(CLEAN, evidence() + SHIFT)
    assert float(fitted.slope[0]) > 5 * float(fitted.slope[1:].abs().max())
    clean = fitted.score(CLEAN)
    assert (float(clean.mean()), float(clean.std())) == pytest.approx((0.0, 1.0), abs=1e-4)
    assert float(fitted.score(evidence(seed=2) + SHIFT).mean()) > 1.5


def test_regressing_recovers_what_the_scores_depend_on() -> None:
    seen = evidence()
    ranks = Ranks(CLEAN)(seen)
    fitted = Surrogate.regressing(CLEAN, seen, 30 + 2 * ranks[:, 0] - ranks[:, 2])
    torch.testing.assert_close(fitted.slope, torch.tensor([2.0, 0.0, -1.0]), atol=0.05, rtol=0)


def test_many_samples_that_are_each_a_little_strange_are_more_suspect_than_few() -> None:
    fitted = Surrogate.classifying(CLEAN, evidence() + SHIFT)
    few, many = (fitted.suspicion(evidence(n) + 0.2 * SHIFT) for n in (10, 100))
    assert float(many) > 1.5 * float(few)
