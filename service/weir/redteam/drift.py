"""A world that changes: the same things, seen differently. Nobody means harm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from weir.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Images turned by ``degrees``, moved right by a ``shift`` of their width, with another contrast about mid-grey."""

    degrees: float = 0.0
    shift: float = 0.0
    contrast: float = 1.0

    def at(self, share: float) -> Drift:
        """The drift when only this share of the way has been gone, from 0 to 1."""
        return Drift(degrees=share * self.degrees, shift=share * self.shift, contrast=self.contrast**share)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Images (n, channels, height, width) after the drift; see Attack. Raises InvalidSetting for what is none."""
        if x.ndim != 4:
            raise InvalidSetting("x", list(x.shape), "images [n, c, h, w]")
        angle = math.radians(self.degrees)
        turn = [[math.cos(angle), -math.sin(angle), -2 * self.shift], [math.sin(angle), math.cos(angle), 0.0]]
        theta = torch.tensor(turn, dtype=x.dtype, device=x.device).expand(len(x), 2, 3)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        return (functional.grid_sample(x, grid, align_corners=False) - 0.5) * self.contrast + 0.5
