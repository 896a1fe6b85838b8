"""In which order a model's weights lie in memory: convolutions with their channels last take less time on a CPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from weir.core.chance import seeded

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
TOLERANCE = 1e-3  # of the largest output: sums are added in another order


def takes_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Whether a model in eval mode computes from samples x (n, *shape) the same with its channels last.

    False where it has no convolutions over images, and where it looks at what they give by ``view``, as if their
    channels came first.
    """
    state = model.state_dict()
    if not any(tensor.ndim == 4 for tensor in state.values()):
        return False
    outputs = []
    try:
        for memory in (CONTIGUOUS, CHANNELS_LAST):
            with torch.no_grad(), seeded(0, x.device):
                outputs.append(functional_call(model, laid_out(state, memory), (x,)))
    except RuntimeError:
        return False
    first, last = outputs
    return bool(torch.allclose(first, last, rtol=0.0, atol=TOLERANCE * float(first.abs().max())))


def lay_out(model: nn.Module, memory: torch.memory_format) -> nn.Module:
    """Put the model's tensors of four dimensions in this order, in place; returns the model."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory)
    return model


def laid_out(tensors: Mapping[str, Tensor], memory: torch.memory_format) -> dict[str, Tensor]:
    """The same tensors, those of four dimensions in this order."""
    return {name: t.contiguous(memory_format=memory) if t.ndim == 4 else t for name, t in tensors.items()}


def like(held: Tensor, other: Tensor) -> Tensor:
    """A copy of what is held, on the device and in the order of another tensor."""
    return torch.empty_like(other).copy_(held)
