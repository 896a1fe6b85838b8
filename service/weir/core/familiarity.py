"""How unlike trusted inputs a sample is, before any model looks at it."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-12  # variance, where there is none at all
SHRINKAGE = 0.02  # share of the mean variance added in every direction; more hides small perturbations


class Familiarity:
    """Mahalanobis distance to trusted inputs, their covariance shrunk towards a multiple of the identity.

    Perturbations bounded in L∞ have energy in directions where real data has next to none. Works for any dense
    input, of any number of features: the directions are those of the samples' own singular vectors.
    """

    def __init__(self, x: Tensor) -> None:
        """Learn from trusted prepared samples (n, …)."""
        flat = x.flatten(1).double()
        self._size = len(flat)
        self._exact_mean = flat.mean(0)
        _, singular, self._exact_axes = torch.linalg.svd(flat - self._exact_mean, full_matrices=False)
        self._variance = singular.square() / len(flat)
        floor = SHRINKAGE * self._variance.sum() / flat.shape[1] + LEAST
        weights = 1 / ((1 - SHRINKAGE) * self._variance + floor) - 1 / floor
        # What every sample of the stream is measured with need not be exact: nothing cancels there.
        self._mean, self._axes, self._floor, self._weights = (
            exact.to(x.dtype) for exact in (self._exact_mean, self._exact_axes, floor, weights)
        )

    def leave_one_out(self, x: Tensor, parents: Tensor) -> Tensor:
        """The distances (n,) of samples (n, …) as they would be if none of ``parents`` (n, …) had been learned from.

        A sample is close to a mean and a covariance that it, or what it was made from, is part of, the more so the
        fewer there are. Both are taken as they are without the parent: its term out of the inverse (Sherman–Morrison),
        its share out of the floor. In float64, for of a parent's distance next to nothing is left in its own company.
        """
        own, parent = (samples.flatten(1) - self._exact_mean for samples in (x, parents))
        others = self._size - 1
        own = own + parent / others
        features, share = own.shape[1], (1 - SHRINKAGE) / others
        spared = self._variance.sum() - parent.square().sum(1) / others
        floors = SHRINKAGE * spared / features + LEAST * others / self._size
        left = 1 - share * self._inner(parent, parent, floors)
        away = self._inner(own, own, floors) + share * self._inner(own, parent, floors).square() / left
        return (away * others / self._size).to(x.dtype)

    def distance(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance of prepared samples (n, …), (n,)."""
        centred = x.flatten(1) - self._mean
        distance: Tensor = centred.square().sum(1) / self._floor + (centred @ self._axes.T).square() @ self._weights
        return distance

    def _inner(self, a: Tensor, b: Tensor, floors: Tensor) -> Tensor:
        """aᵀ C⁻¹ b, row by row, of centred samples (n, features), the covariance having a floor (n,) of each row's."""
        along = (a @ self._exact_axes.T) * (b @ self._exact_axes.T)
        within: Tensor = (along / ((1 - SHRINKAGE) * self._variance + floors[:, None])).sum(1)
        beside: Tensor = ((a * b).sum(1) - along.sum(1)) / floors
        return within + beside
