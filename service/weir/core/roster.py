"""Who sent which rows of a step, and of which classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor


class Roster:
    """The producers of a step's rows, in the order in which they are heard of first.

    ``rows`` are each one's, ``classes`` how many of each label these have, and ``place`` (n,) is the ``number`` of the
    producer of each row. What is done for all of a step's producers at once costs little more than for one.
    """

    def __init__(self, producers: Sequence[str], labels: Sequence[int]) -> None:
        self.rows = rows_of(producers)
        self.labels = labels
        self.classes = [Counter(labels[row] for row in rows) for rows in self.rows.values()]
        self.number = {name: number for number, name in enumerate(self.rows)}
        self.place = torch.tensor([self.number[name] for name in producers], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def sums(self, values: Tensor) -> Tensor:
        """Sums (producers, k) float64 of values (n, k), on the CPU, over the rows of each."""
        return torch.zeros(len(self), values.shape[1], dtype=torch.float64).index_add_(0, self.place, values.double())


def rows_of(producers: Sequence[str]) -> dict[str, list[int]]:
    """The rows of a step by who sent them, in the order in which they are heard of first."""
    rows: dict[str, list[int]] = {}
    for row, producer in enumerate(producers):
        rows.setdefault(producer, []).append(row)
    return rows
