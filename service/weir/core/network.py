"""A model as the rest of core sees it: prepared inputs, outputs with features, and its tensors as one value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from weir.core.models import build
from weir.core.preparation import Preparation
from weir.types import Recipe

Weights = Mapping[str, Tensor]


class Outputs(NamedTuple):
    """Logits (n, classes), and the input (n, features) of the linear layer that gives them, if there is one."""

    logits: Tensor
    features: Tensor | None


class Network:
    """A model on one device; in eval mode except inside ``training()``."""

    def __init__(self, recipe: Recipe, *, device: str = "cpu", seed: int = 0) -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        self.module = build(recipe, seed=seed).to(self.device).eval()
        self.prepare = Preparation(recipe.inputs, self.device)
        self._features: Tensor | None = None
        classes = recipe.inputs.classes
        heads = [m for m in self.module.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        if heads:
            heads[-1].register_forward_pre_hook(self._keep_features)

    def _keep_features(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0] if inputs[0].ndim == 2 else None

    def outputs(self, x: Tensor, weights: Weights | None = None) -> Outputs:
        """Eval-mode outputs for prepared ``x``, with the model's own weights or with a snapshot's."""
        logits = self.module(x) if weights is None else functional_call(self.module, dict(weights), (x,))
        features, self._features = self._features, None
        return Outputs(logits, features)

    @contextmanager
    def training(self, *, freeze_norm: bool) -> Iterator[None]:
        """Train mode inside, eval mode after; with ``freeze_norm`` batch norm keeps its statistics."""
        self.module.train()
        if freeze_norm:
            for module in self.module.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        try:
            yield
        finally:
            self.module.eval()
            self._features = None

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all parameters and buffers, by name, on the device."""
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def load(self, weights: Weights) -> None:
        """Overwrite all parameters and buffers in place, bit for bit."""
        own = self.module.state_dict()
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])
