"""How unlike trusted inputs a sample is, before any model looks at it."""

from __future__ import annotations

import torch
from torch import Tensor

SHRINKAGE = 0.02  # share of the mean variance added in every direction; more hides small perturbations


class Familiarity:
    """Mahalanobis distance to trusted inputs, their covariance shrunk towards a multiple of the identity.

    Perturbations bounded in L∞ have energy in directions where real data has next to none. Works for any dense
    input, of any number of features: the directions are those of the samples' own singular vectors.
    """

    def __init__(self, x: Tensor) -> None:
        """Learn from trusted prepared samples (n, …)."""
        flat = x.flatten(1)
        self.size = len(flat)
        self._mean = flat.mean(0)
        _, singular, self._axes = torch.linalg.svd(flat - self._mean, full_matrices=False)
        variance = singular.square() / len(flat)
        floor = SHRINKAGE * variance.sum() / flat.shape[1] + 1e-12
        self._floor = floor
        self._weights = 1 / ((1 - SHRINKAGE) * variance + floor) - 1 / floor

    def leave_one_out(self, x: Tensor, parents: Tensor) -> Tensor:
        """The distances (n,) of samples (n, …) as they were if none of ``parents`` (n, …) had been learned from.

        A sample is close to a covariance that it, or what it was made from, is part of, the more so the fewer there
        are; taking the parent's term out of the inverse (Sherman–Morrison) makes it comparable to samples never seen.
        Without it the mean moves as well, which makes that term 1 / (n − 1) and not 1 / n.
        """
        own, parent = (samples.flatten(1) - self._mean for samples in (x, parents))
        others = self.size - 1
        share = (1 - SHRINKAGE) / others
        left = (1 - share * self._inner(parent, parent)).clamp_min(1e-6)
        return (self._inner(own, own) + share * self._inner(own, parent).square() / left) * (self.size / others)

    def distance(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance of prepared samples (n, …), (n,)."""
        centred = x.flatten(1) - self._mean
        return self._inner(centred, centred)

    def _inner(self, a: Tensor, b: Tensor) -> Tensor:
        """aᵀ C⁻¹ b, row by row, of centred samples (n, features)."""
        along: Tensor = (a @ self._axes.T) * (b @ self._axes.T)
        inner: Tensor = (a * b).sum(1) / self._floor + along @ self._weights
        return inner
