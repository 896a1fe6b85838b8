"""Samples to draw batches from."""

from __future__ import annotations

import torch

from weir.datasets import Dataset
from weir.types import Batch


class Pool:
    """Samples that are dealt without end: anew, in another order, each time they are used up."""

    def __init__(self, samples: Dataset | Batch, seed: int) -> None:
        self._samples = samples
        self._generator = torch.Generator().manual_seed(seed)
        self._order: list[int] = []

    def batch(self, n: int) -> Batch:
        """The next n samples."""
        while len(self._order) < n:
            self._order += torch.randperm(len(self._samples), generator=self._generator).tolist()
        rows, self._order = torch.tensor(self._order[:n]), self._order[n:]
        return Batch(self._samples.x[rows], self._samples.y[rows])
