"""What an attacker may do; the harness enforces it, whatever the attack gives back."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from weir.errors import InvalidSetting
from weir.redteam.attack import Attack


class Knowledge(StrEnum):
    """What the attacker sees besides its own samples."""

    WEIGHTS = "weights"  # the current model, before each batch
    GUARD = "guard"  # that, and the guard's rules; only the probe set stays hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatModel:
    """How far a sample may be moved (L∞, in units of x, inside [low, high]), and how many of a batch may be."""

    epsilon: float
    low: float | None = 0.0
    high: float | None = 1.0
    fraction: float = 1.0
    knowledge: Knowledge = Knowledge.WEIGHTS

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise InvalidSetting("epsilon", self.epsilon, "a positive number")
        if not 0 <= self.fraction <= 1:
            raise InvalidSetting("fraction", self.fraction, "a number from 0 to 1")

    def hostile(self, n: int) -> int:
        """How many of n samples may be moved: always the first ones."""
        return round(self.fraction * n)

    def clip(self, moved: Tensor, x: Tensor) -> Tensor:
        """The nearest samples to ``moved`` that are within the ball around ``x`` and the bounds; NaN is no move."""
        inside = torch.minimum(torch.maximum(moved, x - self.epsilon), x + self.epsilon)
        if self.low is not None or self.high is not None:
            inside = inside.clamp(self.low, self.high)
        return torch.where(moved.isnan(), x, inside)

    def craft(self, attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Let an attack move the hostile share of ``x`` (n, *shape) float32, and hold it to the budget.

        The attack works on copies, so that all it can change is what it returns. Raises InvalidSetting when that has
        another shape.
        """
        hostile = self.hostile(len(x))
        if hostile == 0:
            return x.clone()
        victim = deepcopy(model).eval().requires_grad_(True)
        moved = attack.perturb(victim, x[:hostile].clone(), y[:hostile].clone()).detach()
        if moved.shape != x[:hostile].shape:
            raise InvalidSetting("attack", list(moved.shape), f"moved samples of shape {list(x[:hostile].shape)}")
        return torch.cat([self.clip(moved.to(x), x[:hostile]), x[hostile:]])
