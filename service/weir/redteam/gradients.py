"""Gradients as directions: per parameter tensor, normalised, differentiable once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from weir.redteam.threat import ThreatModel

Gradients = Sequence[Tensor]
Objective = Callable[[Tensor], Tensor]

_TINY = 1e-12  # under the root: a tensor without gradient stays zero, at every order of differentiation


def gradients(
    model: nn.Module, x: Tensor, y: Tensor, *, differentiable: bool = False, train_mode: bool = False
) -> Gradients:
    """Gradient of the mean cross-entropy on ``x`` (n, *shape), ``y`` (n,) for every parameter tensor.

    With ``train_mode`` batch norm normalises with the statistics of this batch, as in an update.
    """
    loss = functional.cross_entropy(_trained(model, x) if train_mode else model(x), y)
    # A parameter that the output does not depend on is no error in training, and none here.
    return torch.autograd.grad(loss, list(model.parameters()), create_graph=differentiable, materialize_grads=True)


def units(directions: Gradients) -> Gradients:
    """Every tensor divided by its own L2 norm."""
    return [direction * (direction.square().sum() + _TINY).rsqrt() for direction in directions]


def inner(first: Gradients, second: Gradients) -> Tensor:
    """Sum of the tensors' inner products; of unit tensors this is the sum of their cosines."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def ascend(objective: Objective, x: Tensor, threat: ThreatModel, *, steps: int) -> Tensor:
    """Move ``x`` (n, *shape) up the objective by ``steps`` sign steps of 2 epsilon / steps, each kept in the budget.

    Source: Pang et al., NeurIPS 2021, released code.
    """
    return ascend_each(objective, x, [threat], steps=steps)[0]


def ascend_each(objective: Objective, x: Tensor, threats: Sequence[ThreatModel], *, steps: int) -> list[Tensor]:
    """The same within each of several budgets; the slope where they all start is taken once."""
    start = slope(objective, x) if steps else x
    return [_climbed(objective, x, threat, steps, start) for threat in threats]


def slope(objective: Objective, x: Tensor) -> Tensor:
    """The objective's gradient at ``x``, of its shape."""
    at = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(objective(at), at)
    return found


def _climbed(objective: Objective, x: Tensor, threat: ThreatModel, steps: int, start: Tensor) -> Tensor:
    moved = x.clone()
    for step in range(steps):
        up = slope(objective, moved) if step else start
        moved = threat.clip(moved + up.sign() * (2 * threat.epsilon / steps), x)
    return moved


def _trained(model: nn.Module, x: Tensor) -> Tensor:
    """The model's outputs in train mode; its running statistics learn nothing from them."""
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = model.training
    model.train()
    try:
        outputs: Tensor = functional_call(model, copies, (x,))
    finally:
        model.train(before)
    return outputs
