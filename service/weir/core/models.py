"""Models by name, or by ``package.module:factory``."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from weir.core.chance import seeded
from weir.core.layout import lay_out, takes_channels_last
from weir.errors import ModelNotBuilt
from weir.types import InputSpec, Recipe

Factory = Callable[..., nn.Module]

CHECKED = 4  # samples that show what a model does


def build(recipe: Recipe, *, seed: int = 0, device: str | torch.device = "cpu") -> nn.Module:
    """Build the model of a recipe with seeded weights, on a device; on a CPU with channels last where it takes that.

    A factory is called as ``factory(inputs, **options)`` and must map (n, *inputs.shape) to (n, inputs.classes)
    logits. Raises ModelNotBuilt.
    """
    factory = MODELS.get(recipe.model) or _imported(recipe.model)
    with seeded(seed):
        try:
            model = factory(recipe.inputs, **recipe.options)
        except Exception as error:
            raise ModelNotBuilt(
                f"{recipe.model}: calling the factory with {recipe.options} failed: {error!r}"
            ) from error
    if not isinstance(model, nn.Module):
        raise ModelNotBuilt(
            f"{recipe.model}: the factory gave a {type(model).__name__}, a torch.nn.Module was expected"
        )
    _check_output(model, recipe)
    model, device = model.to(device), torch.device(device)
    if device.type == "cpu" and takes_channels_last(model, some_samples(recipe.inputs)):  # not measured on a GPU
        lay_out(model, torch.channels_last)
    return model


def some_samples(inputs: InputSpec) -> Tensor:
    """Prepared samples (CHECKED, *shape) that every model of these inputs must take, on the CPU."""
    x = torch.rand(CHECKED, *inputs.shape, generator=torch.Generator().manual_seed(0))
    x.flatten(1)[:, list(inputs.categorical)] = 0.0  # a code that every category has
    return x


def mlp(inputs: InputSpec, *, hidden: int | list[int] = 64) -> nn.Module:
    """A perceptron with ReLU layers of the given widths."""
    widths = [math.prod(inputs.shape), *([hidden] if isinstance(hidden, int) else hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], inputs.classes))


def cnn(inputs: InputSpec, *, width: int = 16) -> nn.Module:
    """Two 3×3 convolutions, each halving the image, then one hidden linear layer; no normalisation."""
    channels, height, side = inputs.shape
    flat = 2 * width * math.ceil(height / 4) * math.ceil(side / 4)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(flat, 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, inputs.classes),
    )


def resnet18(inputs: InputSpec, *, width: int = 64, norm: str = "batch", pool: bool = True) -> nn.Module:
    """ResNet-18 with the CIFAR stem of Zhu et al. (ICML 2023, released code): 3×3 convolution, 3×3/2 max-pool.

    ``norm`` is batch, group or none; without normalisation each block starts as the identity
    (SkipInit, De & Smith, NeurIPS 2020).
    """
    if norm not in NORMS:
        raise ModelNotBuilt(f"resnet18: norm {norm!r} is not one of {', '.join(NORMS)}")
    stem: list[nn.Module] = [
        nn.Conv2d(inputs.shape[0], width, 3, padding=1, bias=norm == "none"),
        NORMS[norm](width),
        nn.ReLU(),
    ]
    if pool:
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    blocks: list[nn.Module] = []
    before = width
    for stage in range(4):
        after = width * 2**stage
        blocks += [_Block(before, after, 1 if stage == 0 else 2, norm), _Block(after, after, 1, norm)]
        before = after
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, inputs.classes))
    return model.apply(_keep_variance) if norm == "none" else model


def _keep_variance(layer: nn.Module) -> None:
    """Weights that keep a signal as large as it came (He et al., 2015): without a norm nothing else would."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(min(8, width), width)


def _no_norm(width: int) -> nn.Module:
    return nn.Identity()


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": _group_norm, "none": _no_norm}


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=bias),
            NORMS[norm](after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=bias),
            NORMS[norm](after),
        )
        self.gain = nn.Parameter(torch.zeros(())) if norm == "none" else None
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=bias), NORMS[norm](after))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x) if self.gain is None else self.gain * self.body(x)
        return torch.relu(self.shortcut(x) + residual)


MODELS: dict[str, Factory] = {"mlp": mlp, "cnn": cnn, "resnet18": resnet18}


def _imported(name: str) -> Factory:
    module, _, attribute = name.partition(":")
    if not attribute:
        known = ", ".join(sorted(MODELS))
        raise ModelNotBuilt(f"model {name!r}: expected one of {known}, or 'package.module:factory'")
    try:
        factory: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ModelNotBuilt(f"model {name!r} cannot be imported: {error!r}") from error
    if not callable(factory):
        raise ModelNotBuilt(f"model {name!r} is a {type(factory).__name__}, a callable was expected")
    return factory  # type: ignore[no-any-return]


def _check_output(model: nn.Module, recipe: Recipe) -> None:
    inputs = recipe.inputs
    model.eval()
    try:
        with torch.no_grad():
            shape = tuple(model(torch.zeros(2, *inputs.shape)).shape)
    except Exception as error:
        raise ModelNotBuilt(f"{recipe.model} does not take x of shape [n, {inputs.shape}]: {error}") from error
    if shape != (2, inputs.classes):
        raise ModelNotBuilt(f"{recipe.model} maps [2, *x] to {list(shape)}, [2, {inputs.classes}] was expected")
