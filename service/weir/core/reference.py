"""What trusted samples show, to rank others among: p-values and normal scores, column by column."""

from __future__ import annotations

import torch
from torch import Tensor


class Reference:
    """Trusted values (n, k), sorted once: they are asked at every step, and sorting takes longer than asking."""

    def __init__(self, values: Tensor) -> None:
        """Take the values; they are not kept."""
        ordered = values.T.contiguous().sort(dim=1)
        self._ascending, self._places = ordered.values, ordered.indices

    def __len__(self) -> int:
        return self._ascending.shape[1]

    def pvalues(self, values: Tensor) -> Tensor:
        """Conformal p-values (m, k) of values (m, k): (1 + #{trusted ≥ value}) / (n + 1).

        On exchangeable samples P(p ≤ α) ≤ α holds exactly for any n and any distribution (Vovk, Gammerman and Shafer,
        "Algorithmic Learning in a Random World").
        """
        return self._pvalues(self._below(values)).to(values.dtype)

    def normal_scores(self, values: Tensor) -> Tensor:
        """Ranks of values (m, k) as standard normal scores (m, k), large for large values (van der Waerden).

        Ties share the middle of their ranks: a discrepancy is exactly zero for many samples at once, and must then say
        nothing.
        """
        return self._normal(self._below(values), self._below(values, right=True))

    def own_pvalues(self) -> Tensor:
        """The p-values (n, k) of the trusted values, each among the others."""
        n = len(self)
        among_all = self._pvalues(self._own(self._below_own())).to(self._ascending.dtype)
        return ((n + 1) * among_all - 1) / n  # each is as large as itself

    def own_normal_scores(self) -> Tensor:
        """The normal scores (n, k) of the trusted values."""
        return self._normal(self._own(self._below_own()), self._own(self._below_own(right=True)))

    def _below(self, values: Tensor, *, right: bool = False) -> Tensor:
        """How many trusted values (k, m) are below others, or with ``right`` not above them."""
        return torch.searchsorted(self._ascending, values.T.contiguous(), right=right)

    def _below_own(self, *, right: bool = False) -> Tensor:
        return torch.searchsorted(self._ascending, self._ascending, right=right)

    def _own(self, ordered: Tensor) -> Tensor:
        """What is known (k, n) in ascending order, in the order of the samples."""
        return torch.empty_like(ordered).scatter_(1, self._places, ordered)

    def _pvalues(self, below: Tensor) -> Tensor:
        return (1 + len(self) - below).T / (len(self) + 1)

    def _normal(self, below: Tensor, within: Tensor) -> Tensor:
        ranks = (below + (within - below + 1) / 2).T / (len(self) + 1)
        scores: Tensor = torch.special.ndtri(ranks)
        return scores
