"""Honest producers that are unlike each other: each sees a world of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weir.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """Class shares per producer from a Dirichlet distribution, and one class that is rare everywhere.

    ``concentration`` per class: 0.1 leaves a producer about one or two classes. Source of the recipe: Hsu, Qi and
    Brown, 2019.
    """

    producers: int
    classes: int
    concentration: float = 0.1
    rare: int | None = None
    rare_share: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.concentration > 0:
            raise InvalidSetting("concentration", self.concentration, "a positive number")

    @property
    def shares(self) -> Tensor:
        """Class shares (producers, classes) float64, every row with the sum 1."""
        usual = torch.full((self.classes,), 1 / self.classes, dtype=torch.float64)
        if self.rare is not None:
            usual[:] = (1 - self.rare_share) / (self.classes - 1)
            usual[self.rare] = self.rare_share
        weights = self.concentration * self.classes * usual
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return torch.distributions.Dirichlet(weights.expand(self.producers, -1)).sample()

    def labels(self, producer: int, n: int, *, batch: int) -> Tensor:
        """The classes (n,) of one producer's batch number ``batch``."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + producer * 10_007 + batch)
        return torch.multinomial(self.shares[producer], n, replacement=True, generator=generator)
