"""Discrepancy-aware sample correction: move a suspect inside a small ball until it is no longer suspect."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.config import CorrectionConfig
from weir.core.network import Network
from weir.core.task import Task
from weir.types import InputSpec

Suspicion = Callable[[Tensor, Tensor], Tensor]


class Corrected(NamedTuple):
    """Samples after correction: ``x`` (n, …) and whether each is still suspect (n,) bool."""

    x: Tensor
    suspect: Tensor


class Correction:
    """Projected sign-gradient descent of the loss with respect to x, sample by sample (Zhu et al., ICML 2023).

    Every sample stops on its own as soon as it is no longer suspect; weights get no gradients; values stay inside
    the L∞ ball around the sample and the data bounds, and categorical features never move.
    """

    def __init__(self, network: Network, task: Task, config: CorrectionConfig) -> None:
        self._network = network
        self._task = task
        self._config = config
        self._movable = movable(network.recipe.inputs).to(network.device)

    def correct(self, x: Tensor, y: Tensor, suspicious: Suspicion) -> Corrected:
        """Correct prepared suspects (n, …); ``suspicious(x, index)`` re-scores the given ones, index into ``x``."""
        corrected = x.clone()
        active = torch.arange(len(x), device=x.device)
        for _ in range(self._config.steps):
            if not len(active):
                break
            corrected[active] = self._descend(corrected[active], y[active], around=x[active])
            active = active[suspicious(corrected[active], active)]
        suspect = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        suspect[active] = True
        return Corrected(corrected, suspect)

    def _descend(self, x: Tensor, y: Tensor, *, around: Tensor) -> Tensor:
        with torch.enable_grad():
            moving = x.detach().requires_grad_(True)
            loss = self._task.loss(self._network.outputs(moving).logits, y).sum()
            (gradient,) = torch.autograd.grad(loss, moving)
        size = self._config.epsilon / self._config.steps
        moved = self._project(x - size * gradient.sign(), around)
        return torch.where(self._movable, moved, around)

    def _project(self, x: Tensor, around: Tensor) -> Tensor:
        epsilon = self._config.epsilon
        inside = torch.minimum(torch.maximum(x, around - epsilon), around + epsilon)
        low, high = self._network.prepare.low, self._network.prepare.high
        return inside if low is None and high is None else inside.clamp(low, high)


def movable(inputs: InputSpec) -> Tensor:
    """Whether a feature may be moved or is categorical (False), in the shape of one sample."""
    mask = torch.ones(inputs.shape, dtype=torch.bool)
    if inputs.categorical:
        mask.view(-1)[list(inputs.categorical)] = False
    return mask
