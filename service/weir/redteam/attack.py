"""What an attack is to the harness: something that moves samples or their labels, and nothing else."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Attack(Protocol):
    """Moves samples and leaves labels alone; its ``repr`` is its configuration and can name a test or a table's row.

    It is given a copy of the model, its own samples, and no word on how well it does.
    """

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Moved samples (n, *shape), for ``x`` (n, *shape) float32 and labels ``y`` (n,)."""


class LabelAttack(Protocol):
    """Moves labels and leaves samples alone; everything else as for Attack. What moves both is both."""

    def relabel(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Other labels (n,) int64, for ``x`` (n, *shape) float32 and labels ``y`` (n,)."""
