"""An immutable copy of the model for readers, while the learner goes on."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from weir.core.models import build
from weir.core.network import Weights, scaled
from weir.types import Recipe


class Reader:
    """Copies of one model; the weights of a copy never change, so any thread may use it."""

    def __init__(self, recipe: Recipe, *, device: str) -> None:
        self._recipe = recipe
        self._device = torch.device(device)
        self._template = build(recipe).to(self._device).eval()

    def copy(self, weights: Weights) -> ReaderCopy:
        """A copy that holds these weights."""
        module = deepcopy(self._template)
        module.load_state_dict(dict(weights))
        return ReaderCopy(module, self._recipe, self._device)


class ReaderCopy:
    """One immutable copy; call it with ``x`` (n, *shape) for logits (n, classes) on the CPU."""

    def __init__(self, module: torch.nn.Module, recipe: Recipe, device: torch.device) -> None:
        self._module = module
        self._shape = recipe.inputs.shape
        self._device = device
        self.weights: Weights = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._module(scaled(x.to(self._device)).reshape(len(x), *self._shape))
        return logits.float().cpu()
