"""An immutable copy of the model for readers, while the learner goes on."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from weir.core.models import build
from weir.core.network import Weights
from weir.core.preparation import Preparation
from weir.types import Recipe


class Reader:
    """Copies of one model; the weights of a copy never change, so any thread may use it."""

    def __init__(self, recipe: Recipe, *, device: str) -> None:
        self._prepare = Preparation(recipe.inputs, torch.device(device))
        self._template = build(recipe, device=device).eval()

    def copy(self, weights: Weights) -> ReaderCopy:
        """A copy that holds these weights."""
        module = deepcopy(self._template)
        module.load_state_dict(dict(weights))
        return ReaderCopy(module, self._prepare)


class ReaderCopy:
    """One immutable copy; call it with ``x`` (n, *shape) for logits (n, classes) on the CPU."""

    def __init__(self, module: torch.nn.Module, prepare: Preparation) -> None:
        self._module = module
        self._prepare = prepare
        self.weights: Weights = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._module(self._prepare(x))
        return logits.float().cpu()
