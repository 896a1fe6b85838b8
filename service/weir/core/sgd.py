"""Stochastic gradient descent, as ``torch.optim`` computes it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.sgd import sgd


class Sgd:
    """SGD with momentum and L2 penalty; ``momenta`` are by the parameter's place, and not there before its first step.

    The arithmetic is torch's own function. Its optimizer class would do as well, but that loads the whole of torch's
    compiler when one is made: a second of every start, and memory that the service holds for nothing.
    """

    def __init__(self, parameters: Iterable[Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._lr = lr
        self._momentum = momentum
        self._weight_decay = weight_decay
        self.momenta: dict[int, Tensor] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """Move every parameter that has a gradient, in place; ``share`` of the L2 penalty goes with it."""
        given = {place: (p, p.grad) for place, p in enumerate(self._parameters) if p.grad is not None}
        momenta = [self.momenta.get(place) for place in given]
        sgd(
            [parameter for parameter, _ in given.values()],
            [gradient for _, gradient in given.values()],
            momenta,
            lr=self._lr,
            momentum=self._momentum,
            weight_decay=self._weight_decay * share,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        # Without momentum the list stays as empty as it came.
        self.momenta |= {place: made for place, made in zip(given, momenta, strict=True) if made is not None}
