"""What poison would look like today: crafted from trusted samples, and told from them by a few small classifiers.

A score that only asks how unusual a sample is cannot know which unusual things do harm. The vaccine asks how much more
likely the evidence is under known attacks than under trusted data, for each attack apart. It never sees the stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from weir.types import State

RIDGE = 10.0  # in samples of evidence: features of no use must not fit noise
NEWTON_STEPS = 30
LARGEST_STEP = 5.0
FOLDS = 5  # in which trusted samples are left out of the experts that score them


class Strain(NamedTuple):
    """One attack's crafted samples: prepared ``x`` (n, *shape), ``y`` (n,), and the rows (n,) they were made from."""

    name: str
    x: Tensor
    y: Tensor
    parents: Tensor


class Poisoner(Protocol):
    """Crafts poison from trusted samples; injected, since the core knows no attack."""

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, *, low: Tensor | None, high: Tensor | None, seed: int
    ) -> Sequence[Strain]:
        """Strains made from prepared ``x`` (n, *shape) and ``y`` (n,), inside the data bounds; equal for equal input.

        It must leave the module as it is. Strains of one name are learned together.
        """


class Labelled(NamedTuple):
    """Standardised evidence (n, k), and the fold (n,) of the trusted sample that each is, or was made from."""

    evidence: Tensor
    folds: Tensor


@dataclass(frozen=True, slots=True)
class Vaccine:
    """One logistic expert an attack; ``weights`` (experts, k + 1) work on standardised evidence, the last a bias.

    ``held_out`` (FOLDS, experts, k + 1) are the experts that have not learned from one fold: what trusted samples score
    with them is what fresh ones score, so that all of them serve to learn from and to set thresholds with (Vovk,
    "Cross-conformal predictors", 2015).
    """

    names: tuple[str, ...]
    weights: Tensor
    held_out: Tensor

    @staticmethod
    def fit(clean: Labelled, strains: Mapping[str, Labelled]) -> Vaccine:
        """Tell each attack's evidence from clean evidence, both sides weighing the same."""
        weights = _experts(clean, strains.values())
        without = [_experts(*_without(fold, clean, strains.values())) for fold in range(FOLDS)]
        return Vaccine(tuple(strains), weights, torch.stack(without))

    def logits(self, evidence: Tensor) -> Tensor:
        """Log likelihood ratios (n, experts) of standardised evidence (n, k): attack against trusted data."""
        return evidence @ self.weights[:, :-1].T + self.weights[:, -1]

    def held_out_logits(self, trusted: Labelled) -> Tensor:
        """The same of trusted samples, each by experts that have not learned from it."""
        logits = torch.einsum("nk,fek->fne", trusted.evidence, self.held_out[..., :-1]) + self.held_out[:, None, :, -1]
        return logits[trusted.folds, torch.arange(len(logits[0]))]

    def state(self) -> State:
        """Everything a restart needs."""
        return State({"weights": self.weights, "held_out": self.held_out}, {"names": list(self.names)})

    @staticmethod
    def from_state(state: State, device: torch.device) -> Vaccine | None:
        """What ``state()`` described, on a device; None for one of earlier versions, which held nothing out."""
        if "held_out" not in state.tensors:
            return None
        weights, held_out = (state.tensors[name].to(device) for name in ("weights", "held_out"))
        return Vaccine(tuple(state.values["names"]), weights, held_out)


def folds_of(labels: Tensor) -> Tensor:
    """The fold (n,) of each trusted sample with these labels (n,): every class is spread over all of them."""
    folds = torch.empty_like(labels)
    folds[labels.argsort(stable=True)] = torch.arange(len(labels), device=labels.device) % FOLDS
    return folds


def _experts(clean: Labelled, strains: Iterable[Labelled]) -> Tensor:
    return torch.stack([logistic(clean.evidence, crafted.evidence) for crafted in strains]).to(clean.evidence)


def _without(fold: int, clean: Labelled, strains: Iterable[Labelled]) -> tuple[Labelled, list[Labelled]]:
    left, *crafted = (_leave_out(fold, of) for of in (clean, *strains))
    return left, crafted


def _leave_out(fold: int, of: Labelled) -> Labelled:
    """What is not of this fold; all where nothing would be left, of a strain with few parents."""
    kept = of.folds != fold
    return Labelled(of.evidence[kept], of.folds[kept]) if bool(kept.any()) else of


def logistic(negative: Tensor, positive: Tensor) -> Tensor:
    """Ridge-regularised logistic regression (k + 1,) float64 by Newton's method, balanced between its two sides.

    In float64 on the CPU: the same bits wherever it is repeated.
    """
    sides = [side.detach().double().cpu() for side in (negative, positive)]
    x = torch.cat(sides)
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    y = torch.cat([torch.full((len(side),), float(label), dtype=x.dtype) for label, side in enumerate(sides)])
    share = torch.cat([torch.full((len(side),), len(sides[0]) / len(side), dtype=x.dtype) for side in sides])
    ridge = torch.full((x.shape[1],), RIDGE, dtype=x.dtype)
    ridge[-1] = 1e-6
    weights = torch.zeros_like(ridge)
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(x @ weights)
        slope = x.T @ (share * (p - y)) + ridge * weights
        curvature = (x.T * (share * p * (1 - p))) @ x + ridge.diag()
        step = torch.linalg.solve(curvature, slope).clamp(-LARGEST_STEP, LARGEST_STEP)
        weights = weights - step
        if float(step.abs().max()) < 1e-9:
            break
    return weights


class Scale(NamedTuple):
    """Where trusted evidence lies, signal by signal: ``center`` (k,) and ``spread`` (k,)."""

    center: Tensor
    spread: Tensor

    @staticmethod
    def of(trusted: Tensor) -> Scale:
        """Median and interquartile range (as a standard deviation) of trusted evidence (n, k)."""
        low, center, high = trusted.quantile(torch.tensor([0.25, 0.5, 0.75], device=trusted.device), dim=0)
        # Many a discrepancy is exactly zero, and then so may be the range.
        return Scale(center, (high - low) / 1.35 + 1e-3 * trusted.abs().mean(0) + 1e-6)

    def standardise(self, evidence: Tensor) -> Tensor:
        """Monotone in every signal, linear near the centre, logarithmic far out: (n, k)."""
        return torch.asinh((evidence - self.center) / self.spread)


def mixture(ratios: Tensor) -> Tensor:
    """Log of the mean likelihood ratio over attacks (n,), from ``logits()`` (n, experts)."""
    return ratios.logsumexp(1) - math.log(ratios.shape[1])
