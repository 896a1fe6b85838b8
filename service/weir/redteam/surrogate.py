"""The guard's score as an attacker can rebuild it: fitted on evidence of its own samples, and differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

RIDGE = 1.0
NEWTON_STEPS = 10
KNOTS = 16  # more follow the ranks closer, and leave slopes that a handful of samples decides


class Ranks:
    """Normal scores of evidence among clean samples, as the guard takes them, but with a slope: linear between knots.

    The knots of each signal are quantiles of the clean samples; beyond the outermost two the line goes straight on.
    """

    def __init__(self, clean: Tensor) -> None:
        """Learn from clean evidence (n, signals)."""
        levels = (torch.arange(KNOTS, device=clean.device) + 0.5) / KNOTS
        self._scores = torch.special.ndtri(levels)
        self._knots = torch.quantile(clean, levels, dim=0).T.contiguous()
        # Where most are equal, as discrepancies are at first, the quantiles coincide: no slope may be endless.
        self._least = 0.01 * clean.std(0)[:, None] + 1e-6

    def __call__(self, evidence: Tensor) -> Tensor:
        """Scores (n, signals) of evidence (n, signals)."""
        values = evidence.T.contiguous()
        right = torch.searchsorted(self._knots, values.detach()).clamp(1, KNOTS - 1)
        low, high = self._knots.gather(1, right - 1), self._knots.gather(1, right)
        way = (values - low) / torch.maximum(high - low, self._least)
        before, after = self._scores[right - 1], self._scores[right]
        scores: Tensor = before + way * (after - before)
        return scores.T


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """A linear score over ranked signals, itself standardised: clean samples have mean 0 and variance 1.

    ``slope`` (signals,) weighs the signals, ``level`` and ``spread`` are what clean samples then have.
    """

    ranks: Ranks
    slope: Tensor
    level: Tensor
    spread: Tensor

    @classmethod
    def classifying(cls, clean: Tensor, crafted: Tensor) -> Self:
        """Fitted to tell crafted evidence (m, signals) from clean (n, signals): a ridge-regularised logistic model."""
        ranks = Ranks(clean)
        targets = torch.cat([torch.ones(len(crafted)), torch.zeros(len(clean))]).to(clean)
        return cls._of(ranks, _logistic(ranks(torch.cat([crafted, clean])), targets), clean)

    @classmethod
    def regressing(cls, clean: Tensor, evidence: Tensor, scores: Tensor) -> Self:
        """Fitted to the guard's own ``scores`` (m,) of samples with this evidence (m, signals): ridge regression."""
        ranks = Ranks(clean)
        return cls._of(ranks, _ridge(ranks(evidence), scores.to(clean)), clean)

    @classmethod
    def _of(cls, ranks: Ranks, slope: Tensor, clean: Tensor) -> Self:
        raw = ranks(clean) @ slope
        return cls(ranks, slope, raw.mean(), raw.std().clamp_min(1e-6))

    def score(self, evidence: Tensor) -> Tensor:
        """The score (n,) of evidence (n, signals)."""
        return self._combined(self.ranks(evidence))

    def suspicion(self, evidence: Tensor) -> Tensor:
        """What a batch risks: its samples' scores, and the largest z of its means, for groups are tested by means."""
        columns = self.ranks(evidence)
        score = self._combined(columns)
        means = torch.cat([columns, score[:, None]], dim=1).mean(0)
        total: Tensor = score.relu().mean() + (means.max() * len(evidence) ** 0.5).relu()
        return total

    def _combined(self, columns: Tensor) -> Tensor:
        combined: Tensor = (columns @ self.slope - self.level) / self.spread
        return combined


def _logistic(rows: Tensor, targets: Tensor) -> Tensor:
    """Weights (k,) of a logistic model of rows (n, k), by Newton's method; its intercept is left out."""
    design = functional.pad(rows.double(), (0, 1), value=1.0)
    weights = design.new_zeros(design.shape[1])
    ridge = RIDGE * torch.eye(len(weights), dtype=torch.float64, device=rows.device)
    for _ in range(NEWTON_STEPS):
        p = (design @ weights).sigmoid()
        slope = design.T @ (p - targets) + ridge @ weights
        weights = weights - torch.linalg.solve(design.T @ (design * (p * (1 - p))[:, None]) + ridge, slope)
    return weights[:-1].to(rows)


def _ridge(rows: Tensor, targets: Tensor) -> Tensor:
    """Weights (k,) of a linear model of rows (n, k), about the means of both."""
    design = (rows - rows.mean(0)).double()
    ridge = RIDGE * torch.eye(design.shape[1], dtype=torch.float64, device=rows.device)
    weights: Tensor = torch.linalg.solve(design.T @ design + ridge, design.T @ (targets - targets.mean()).double())
    return weights.to(rows)
