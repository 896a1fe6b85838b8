"""The layout of a model's weights in memory: convolutions with their channels last take less time on a CPU."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from weir.core.chance import seeded

TOLERANCE = 0.01  # of all numbers together: sums are added in another order, and a ReLU may fall on the other side


def takes_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Whether a model computes from samples x (n, *shape) the same with its channels last, learning and scoring.

    It is tried on copies. False for one without tensors of four dimensions, one that looks at its activations by
    ``view`` as if their channels came first, and one whose tensors share memory in a way of their own.
    """
    held = [*model.parameters(), *model.buffers()]
    shared = len({tensor.untyped_storage().data_ptr() for tensor in held}) < len(held)
    if shared or not any(tensor.ndim == 4 for tensor in held):
        return False
    try:
        came, last = _tried(deepcopy(model), x), _tried(lay_out(deepcopy(model), torch.channels_last), x)
    except Exception:  # the user's code runs here and may raise anything: then the model goes as it came
        return False
    return all(
        bool((one.isfinite() & other.isfinite()).all()) and float((one - other).norm()) <= TOLERANCE * float(one.norm())
        for one, other in zip(came, last, strict=True)
    )


def lay_out(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Give the model's tensors of four dimensions this layout, in place; returns the model."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)
    return model


def like(held: Tensor, other: Tensor) -> Tensor:
    """A copy of what is held, of the device, layout and type of another tensor of its shape."""
    return torch.empty_like(other).copy_(held)


def _tried(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A model's outputs as it scores, those as it learns, and all gradients of these together."""
    with seeded(0, x.device):
        for parameter in model.parameters():
            if not parameter.any():  # what is nought at first hides what comes before it
                nn.init.normal_(parameter)
        with torch.no_grad():
            scored = model.eval()(x)
        learned = model.train()(x)
    gradients = torch.autograd.grad(learned.square().sum(), list(model.parameters()), materialize_grads=True)
    return scored, learned.detach(), torch.cat([gradient.flatten() for gradient in gradients])
