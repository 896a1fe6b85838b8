"""Ranks among trusted values, against counting by hand."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from weir.core.reference import Reference


def draw(n: int, *, seed: int) -> Tensor:
    """Three columns, the last with many ties."""
    values = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    values[:, 2] = values[:, 2].round()
    return values


def test_a_pvalue_counts_the_trusted_values_that_are_as_large() -> None:
    reference = torch.tensor([[1.0], [2.0], [2.0], [4.0]])
    values = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [float("nan")]])
    assert Reference(reference).pvalues(values).flatten().tolist() == pytest.approx(
        [1, 1, 4 / 5, 2 / 5, 2 / 5, 1 / 5, 1 / 5]
    )


def test_columns_are_independent_and_order_does_not_matter() -> None:
    reference, values = draw(50, seed=1), draw(20, seed=2)
    p = Reference(reference).pvalues(values)
    naive = torch.tensor([[(1 + int((reference[:, k] >= v).sum())) / 51 for k, v in enumerate(row)] for row in values])
    torch.testing.assert_close(p, naive)
    assert torch.equal(Reference(reference.flip(0)).pvalues(values), p)


def test_normal_scores_are_the_normal_quantiles_of_ranks_and_ties_share_the_middle() -> None:
    reference = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0])[:, None]
    scores = Reference(reference).normal_scores(torch.tensor([-1.0, 0.0, 1.5, 9.0])[:, None])[:, 0]
    # Below all, in the middle of the three zeros, between the last two, above all: of six gaps between five samples.
    expected = [NormalDist().inv_cdf(rank / 6) for rank in (0.5, 2.0, 4.5, 5.5)]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    assert Reference(torch.zeros(9, 1)).normal_scores(torch.zeros(2, 1)).tolist() == [[0.0], [0.0]]


def test_a_trusted_values_own_pvalue_is_that_among_the_others() -> None:
    values = draw(30, seed=3)
    others = [torch.cat([values[:row], values[row + 1 :]]) for row in range(30)]
    expected = torch.cat([Reference(rest).pvalues(values[row : row + 1]) for row, rest in enumerate(others)])
    torch.testing.assert_close(Reference(values).own_pvalues(), expected)


def test_its_own_normal_score_is_that_of_any_value_as_large() -> None:
    values = draw(30, seed=3)
    reference = Reference(values)
    assert len(reference) == 30
    assert torch.equal(reference.own_normal_scores(), reference.normal_scores(values))
