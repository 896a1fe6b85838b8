"""Divergences against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from weir.core.discrepancy import jensen_shannon, kl

Divergence = Callable[[Tensor, Tensor], Tensor]
P, Q = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
LOGITS = 6 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("measured", "by_hand"),
    [
        (kl(P, Q), 0.9 * math.log(1.8) + 0.1 * math.log(0.2)),
        (kl(Q, P), 0.5 * math.log(5 / 9) + 0.5 * math.log(5)),
        (
            jensen_shannon(P, Q),
            (0.9 * math.log(9 / 7) + 0.1 * math.log(1 / 3) + 0.5 * math.log(5 / 7) + 0.5 * math.log(5 / 3)) / 2,
        ),
    ],
    ids=["kl", "reverse", "jensen-shannon"],
)
def test_two_classes_by_hand(measured: Tensor, by_hand: float) -> None:
    assert measured.shape == (1,)
    assert float(measured) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("divergence", [kl, jensen_shannon])
class TestBoth:
    def test_equal_outputs_are_exactly_zero_apart(self, divergence: Divergence) -> None:
        assert torch.equal(divergence(LOGITS, LOGITS), torch.zeros(500))

    def test_never_below_zero(self, divergence: Divergence) -> None:
        close = LOGITS + 1e-4 * torch.randn(500, 10, generator=torch.Generator().manual_seed(1))
        assert bool((divergence(LOGITS, close) >= 0).all())

    def test_a_constant_added_to_all_logits_changes_nothing(self, divergence: Divergence) -> None:
        other = LOGITS.flip(0)
        torch.testing.assert_close(
            divergence(LOGITS + 7.0, other - 3.0), divergence(LOGITS, other), rtol=1e-4, atol=1e-5
        )

    def test_certain_outputs_stay_finite(self, divergence: Divergence) -> None:
        sure = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
        assert bool(divergence(sure, sure.flip(0)).isfinite().all())


def test_jensen_shannon_is_symmetric_and_at_most_log_two() -> None:
    other = LOGITS.flip(0)
    there, back = jensen_shannon(LOGITS, other), jensen_shannon(other, LOGITS)
    torch.testing.assert_close(there, back)
    assert float(there.max()) <= math.log(2) + 1e-6
    sure = torch.tensor([[1e4, -1e4]])
    assert float(jensen_shannon(sure, -sure)) == pytest.approx(math.log(2), rel=1e-6)
