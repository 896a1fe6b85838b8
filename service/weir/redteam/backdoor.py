"""A patch that means a class: harmless until a sample carries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weir.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Patch:
    """Paints a square of ``size`` pixels into the lower right corner and claims the label ``target``.

    Source: Gu, Dolan-Gavitt and Garg, BadNets, 2017.
    """

    target: int
    size: int = 2
    value: float = 1.0

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Images (n, channels, height, width) with the patch; see Attack. Raises InvalidSetting for what is none."""
        if x.ndim != 4 or min(x.shape[2:]) < self.size:
            expected = f"images [n, c, h, w] of at least {self.size} by {self.size} pixels"
            raise InvalidSetting("x", list(x.shape), expected)
        stamped = x.clone()
        stamped[..., -self.size :, -self.size :] = self.value
        return stamped

    def relabel(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The target for every sample; see LabelAttack."""
        return torch.full_like(y, self.target)


def success_rate(predict: Callable[[Tensor], Tensor], stamped: Tensor, y: Tensor, target: int) -> float:
    """The share of ``stamped`` samples (n, *shape) of other classes ``y`` (n,) that become the target.

    ``predict`` maps samples to logits (n, classes).
    """
    others = y != target
    return float((predict(stamped[others]).argmax(1) == target).float().mean())
