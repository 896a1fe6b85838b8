"""Which of a group's samples carry its alarm: an empirical two-groups model, clean and suspect.

Source: Efron, Large-Scale Inference, 2010 (local false discovery rate), with the attacks' densities known from the
vaccine and their shares estimated by expectation–maximisation under a prior that favours clean.
"""

from __future__ import annotations

import torch
from torch import Tensor

PRIOR = (5.0, 0.05)  # samples' worth of belief in clean, and in each attack: where nothing is known, nothing is held
ROUNDS = 50
SETTLED = 1e-6  # samples
MEMORY = 100.0  # samples after which what was believed of a producer has faded


def prior(attacks: int) -> Tensor:
    """What is believed of someone unknown: counts (1 + attacks,) float64, clean first."""
    clean, each = PRIOR
    return torch.tensor([clean, *[each] * attacks], dtype=torch.float64)


def update(believed: Tensor, ratios: Tensor) -> Tensor:
    """Counts (1 + attacks,) after a group with likelihood ratios (n, attacks) of attack against clean."""
    kept = believed * min(1.0, max(MEMORY - len(ratios), 1.0) / float(believed.sum()))
    counts = kept
    for _ in range(ROUNDS):
        before, counts = counts, kept + responsibilities(counts, ratios).sum(0)
        if float((counts - before).abs().max()) < SETTLED:
            break
    return counts


def responsibilities(counts: Tensor, ratios: Tensor) -> Tensor:
    """The chance (n, 1 + attacks) that each sample is clean, or of each attack."""
    odds = torch.cat([torch.ones(len(ratios), 1, dtype=torch.float64), ratios.double().cpu()], dim=1)
    weighed = odds * (counts / counts.sum())
    return weighed / weighed.sum(1, keepdim=True)


def suspect_share(counts: Tensor) -> float:
    """The share of suspect samples that the counts stand for."""
    return 1 - float(counts[0] / counts.sum())
