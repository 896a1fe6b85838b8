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
    return update_each(believed[None], ratios, torch.zeros(len(ratios), dtype=torch.int64))[0]


def update_each(believed: Tensor, ratios: Tensor, group: Tensor) -> Tensor:
    """Counts (groups, 1 + attacks) of many groups at once; ``group`` (n,) says which one each sample is of."""
    odds, sizes = _odds(ratios), torch.bincount(group, minlength=len(believed))
    kept = believed * ((MEMORY - sizes).clamp_min(1.0) / believed.sum(1)).clamp_max(1.0)[:, None]
    counts, moving = kept, torch.ones(len(kept), 1, dtype=torch.bool)
    for _ in range(ROUNDS):
        found = kept.index_add(0, group, _weighed(odds, counts[group]))
        # Who has settled stays there, as if alone.
        before, counts = counts, torch.where(moving, found, counts)
        moving = ~((counts - before).abs().amax(1, keepdim=True) < SETTLED)
        if not bool(moving.any()):
            break
    return counts


def responsibilities(counts: Tensor, ratios: Tensor) -> Tensor:
    """The chance (n, 1 + attacks) that each sample is clean, or of each attack."""
    return _weighed(_odds(ratios), counts)


def _odds(ratios: Tensor) -> Tensor:
    """Likelihoods (n, 1 + attacks) float64 of clean and of each attack, against clean."""
    return torch.cat([torch.ones(len(ratios), 1, dtype=torch.float64), ratios.double().cpu()], dim=1)


def _weighed(odds: Tensor, counts: Tensor) -> Tensor:
    weighed = odds * (counts / counts.sum(-1, keepdim=True))
    return weighed / weighed.sum(1, keepdim=True)


def suspect_share(counts: Tensor) -> float:
    """The share of suspect samples that the counts stand for."""
    return 1 - float(counts[0] / counts.sum())
