"""A model as the rest of core sees it: prepared inputs, outputs with features, and its tensors as one value."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from weir.core.chance import seeded
from weir.core.layout import takes_channels_last
from weir.core.models import build, some_samples
from weir.core.preparation import Preparation
from weir.types import Recipe

Weights = Mapping[str, Tensor]

# What the largest tensor of a pass on a CPU may take. Far larger ones are given back to the system by the C library and
# asked for again, layer after layer, and to touch new pages costs as much as the arithmetic; passes of few samples
# compute less in a second: performance-notes.md.
PASS_BYTES = 32 * 1024 * 1024


class Outputs(NamedTuple):
    """Logits (n, classes), and the input (n, features) of the linear layer that gives them, if there is one."""

    logits: Tensor
    features: Tensor | None

    def detach(self) -> Outputs:
        """The same numbers without the graph that made them."""
        return Outputs(self.logits.detach(), None if self.features is None else self.features.detach())


class Network:
    """A model on one device; in eval mode except inside ``training()``.

    ``samples_together`` is how many it sends forward at a time, ``scoring_layout`` that of weights to score
    with: on a CPU it is the model's own, elsewhere channels last where the model takes that.
    """

    def __init__(self, recipe: Recipe, *, device: str = "cpu", seed: int = 0) -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        self.module = build(recipe, seed=seed, device=self.device).eval()
        elsewhere = self.device.type != "cpu" and takes_channels_last(self.module, self._any_samples())
        self.scoring_layout = torch.channels_last if elsewhere else torch.preserve_format
        self.prepare = Preparation(recipe.inputs, self.device)
        self.samples_together = self._samples_together()
        self._features: Tensor | None = None
        classes = recipe.inputs.classes
        heads = [m for m in self.module.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        if heads:
            heads[-1].register_forward_pre_hook(self._keep_features)

    def _keep_features(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0] if inputs[0].ndim == 2 else None

    def outputs(self, x: Tensor, weights: Weights | None = None) -> Outputs:
        """Eval-mode outputs for prepared ``x``, in float32, with the model's own weights or in those of a snapshot.

        On a CPU large samples go forward some at a time, so none may depend on which others are there.
        """
        passes = -(-len(x) // self.samples_together)
        if passes <= 1:
            return self._pass(x, weights)
        logits, features = zip(*(self._pass(part, weights) for part in x.chunk(passes)), strict=True)
        return Outputs(torch.cat(logits), None if features[0] is None else torch.cat(features))

    def _pass(self, x: Tensor, weights: Weights | None) -> Outputs:
        if weights is None:
            logits = self.module(x)
        else:
            logits = functional_call(self.module, dict(weights), (x.to(_dtype(weights)),)).float()
        features, self._features = self._features, None
        return Outputs(logits, None if features is None else features.float())

    @property
    def has_norm(self) -> bool:
        """Whether the model has batch norm."""
        return any(isinstance(module, _BatchNorm) for module in self.module.modules())

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

    def trains_as_it_scores(self, *, freeze_norm: bool) -> bool:
        """Whether a forward pass in train mode gives the bits of one in eval mode, draws nothing and leaves no trace.

        Then one pass serves for both. Tried on a few samples, so that models nobody here knows are told as well.
        """
        x, before = self._any_samples(), self.snapshot()
        with torch.no_grad(), seeded(0, self.device):
            scored, drawn = self.outputs(x).logits, self._draws()
        with torch.no_grad(), seeded(0, self.device), self.training(freeze_norm=freeze_norm):
            same = torch.equal(self.module(x), scored) and torch.equal(self._draws(), drawn)
        untouched = all(torch.equal(tensor, before[name]) for name, tensor in self.module.state_dict().items())
        self.load(before)
        return same and untouched

    def _samples_together(self) -> int:
        """How many samples may go forward at a time."""
        if self.device.type != "cpu":
            return sys.maxsize
        sizes, x = [1], self._any_samples()

        def note(layer: nn.Module, inputs: object, made: object) -> None:
            if isinstance(made, Tensor):
                sizes.append(made.nbytes)

        hooks = [layer.register_forward_hook(note) for layer in self.module.modules()]
        with torch.no_grad(), seeded(0, self.device):
            self.module(x)
        for hook in hooks:
            hook.remove()
        return max(1, PASS_BYTES * len(x) // max(sizes))

    def _any_samples(self) -> Tensor:
        return some_samples(self.recipe.inputs).to(self.device)

    def _draws(self) -> Tensor:
        """The next numbers of the generators that a model may draw from."""
        return torch.cat([torch.rand(1), torch.rand(1, device=self.device).cpu()])

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all parameters and buffers, by name, on the device."""
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def load(self, weights: Weights) -> None:
        """Overwrite all parameters and buffers in place, bit for bit."""
        own = self.module.state_dict()
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])


def _dtype(weights: Weights) -> torch.dtype:
    """What these weights compute in; models of other types than one are not made here."""
    return next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), torch.float32)
