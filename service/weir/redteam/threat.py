"""What an attacker may do; the harness enforces it, whatever the attack gives back."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from weir.core.layout import lay_out
from weir.errors import InvalidSetting
from weir.redteam.attack import Attack, LabelAttack


class Knowledge(StrEnum):
    """What the attacker sees besides its own samples."""

    NOTHING = "nothing"
    WEIGHTS = "weights"  # the current model, before each batch
    GUARD = "guard"  # that, and the guard's rules; only the probe set stays hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatModel:
    """How far a sample may be moved (L∞, in units of x, inside [low, high]), and how many of a batch may be.

    Bounds are numbers, or one number for each feature in the shape of a sample, or None where there are none.

    ``features`` is the share of a sample's numbers that may differ at all; labels may become any of ``classes``, and
    stay as they are where that is 0.
    """

    epsilon: float
    low: float | Tensor | None = 0.0
    high: float | Tensor | None = 1.0
    fraction: float = 1.0
    features: float = 1.0
    classes: int = 0
    knowledge: Knowledge = Knowledge.WEIGHTS

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise InvalidSetting("epsilon", self.epsilon, "a positive number")
        if not 0 <= self.fraction <= 1:
            raise InvalidSetting("fraction", self.fraction, "a number from 0 to 1")
        if not 0 < self.features <= 1:
            raise InvalidSetting("features", self.features, "a number above 0, up to 1")
        if self.classes < 0:
            raise InvalidSetting("classes", self.classes, "a number of classes, or 0")

    def hostile(self, n: int) -> int:
        """How many of n samples may be moved: always the first ones."""
        return round(self.fraction * n)

    def clip(self, moved: Tensor, x: Tensor) -> Tensor:
        """The nearest samples to ``moved`` that are within the ball around ``x`` and the bounds; NaN is no move."""
        inside = torch.minimum(torch.maximum(moved, x - self.epsilon), x + self.epsilon)
        if self.low is not None:
            inside = inside.clamp_min(torch.as_tensor(self.low).to(inside))
        if self.high is not None:
            inside = inside.clamp_max(torch.as_tensor(self.high).to(inside))
        inside = torch.where(moved.isnan(), x, inside)
        return inside if self.features == 1 else self._few(inside, x)

    def craft(self, attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Let an attack move the hostile share of ``x`` (n, *shape) float32, and hold it to the budget.

        The attack works on copies, so that all it can change is what it returns. Raises InvalidSetting when that has
        another shape.
        """
        hostile = self.hostile(len(x))
        if hostile == 0:
            return x.clone()
        own = x[:hostile].clone(memory_format=torch.contiguous_format)  # convolutions follow the order of their input
        moved = attack.perturb(victim(model), own, y[:hostile].clone()).detach()
        if moved.shape != x[:hostile].shape:
            raise InvalidSetting("attack", list(moved.shape), f"moved samples of shape {list(x[:hostile].shape)}")
        return torch.cat([self.clip(moved.to(x), x[:hostile]), x[hostile:]])

    def mislabel(self, attack: LabelAttack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Let an attack replace the hostile share of ``y`` (n,) int64; a label that is no class stays as it was.

        The attack works on copies. Raises InvalidSetting when what it returns is no int64 of that shape.
        """
        hostile = self.hostile(len(y))
        if hostile == 0:
            return y.clone()
        moved = attack.relabel(victim(model), x[:hostile].clone(), y[:hostile].clone())
        if moved.shape != y[:hostile].shape or moved.dtype != torch.int64:
            seen = f"{moved.dtype} {list(moved.shape)}"
            raise InvalidSetting("attack", seen, f"labels torch.int64 {list(y[:hostile].shape)}")
        allowed = (moved >= 0) & (moved < self.classes)
        return torch.cat([torch.where(allowed, moved, y[:hostile]), y[hostile:]])

    def _few(self, moved: Tensor, x: Tensor) -> Tensor:
        """Only the features that moved furthest, as many as are allowed."""
        distance = (moved - x).abs().flatten(1)
        kept = distance.topk(math.floor(self.features * distance.shape[1] + 1e-9), dim=1).indices
        mask = torch.zeros_like(distance, dtype=torch.bool).scatter_(1, kept, True)
        return torch.where(mask.view_as(x), moved, x)


def victim(model: nn.Module) -> nn.Module:
    """A copy to craft against, in eval mode.

    Its channels come first: torch 2.13 corrupted memory in second derivatives of convolutions with them last.
    """
    return lay_out(deepcopy(model), torch.contiguous_format).eval().requires_grad_(True)
