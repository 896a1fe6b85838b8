"""A flood of samples that are only a little wrong: each passes, and each should make room for a worse one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from weir.redteam.threat import ThreatModel
from weir.types import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Ratchet:
    """Climbs each sample's own loss by sign steps, and stops below the ``quantile`` of the attacker's clean losses.

    The attacker knows no threshold: what its own ``reference`` samples (x float32) lose stands for what passes.
    """

    threat: ThreatModel
    reference: Batch = field(repr=False)
    quantile: float = 0.95
    steps: int = 10

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Samples just under the ceiling; see Attack."""
        ceiling = torch.quantile(_losses(model, self.reference.x, self.reference.y).detach(), self.quantile)
        moved = x.clone()
        for _ in range(self.steps):
            moved.requires_grad_(True)
            (slope,) = torch.autograd.grad(_losses(model, moved, y).sum(), moved)
            moved = moved.detach()
            tried = self.threat.clip(moved + slope.sign() * (2 * self.threat.epsilon / self.steps), x)
            passes = _losses(model, tried, y).detach() <= ceiling
            moved = torch.where(passes.view(-1, *[1] * (x.ndim - 1)), tried, moved)
        return moved


def _losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x), y, reduction="none")
