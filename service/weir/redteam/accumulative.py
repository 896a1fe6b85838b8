"""Accumulative poisoning with a trigger batch: prepare the model quietly, then strike.

Source: Pang, Yang, Dong, Su and Zhu, Accumulative Poisoning Attacks on Real-time Data, NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from weir.redteam.gradients import Gradients, ascend, gradients, inner, units
from weir.redteam.threat import ThreatModel
from weir.types import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Trigger:
    """Turns a batch's gradient against the gradient of the attacker's ``validation`` samples (x float32).

    It minimises Σ cos(∇L(batch), ∇L(validation)), one cosine per parameter tensor.
    """

    threat: ThreatModel
    validation: Batch = field(repr=False)
    steps: int = 10

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Samples that a step should learn for the model to forget; see Attack."""
        wanted = units(gradients(model, self.validation.x, self.validation.y))

        def opposition(moved: Tensor) -> Tensor:
            return -inner(units(gradients(model, moved, y, differentiable=True)), wanted)

        return ascend(opposition, x, self.threat, steps=self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class Accumulative:
    """Prepares the model for a trigger made of ``ammunition``, with batches that look like learning.

    With s = ∇θ Σ cos(∇L(trigger), ∇L(validation)) it maximises Σ ⟨ĝ(batch), disguise · ĝ(clean batch) + ŝ⟩, where a
    hat divides each parameter tensor by its norm: a step on the batch then lowers those cosines.
    """

    trigger: Trigger
    ammunition: Batch = field(repr=False)
    steps: int = 10
    disguise: float = 1.0

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Samples that prepare the model; see Attack."""
        towards = self._towards(model)
        clean = units(gradients(model, x, y))
        wanted = [self.disguise * usual + step for usual, step in zip(clean, towards, strict=True)]

        def preparation(moved: Tensor) -> Tensor:
            return inner(units(gradients(model, moved, y, differentiable=True)), wanted)

        return ascend(preparation, x, self.trigger.threat, steps=self.steps)

    def _towards(self, model: nn.Module) -> Gradients:
        """ŝ, against the trigger as it would be crafted now."""
        armed = self.trigger.perturb(model, self.ammunition.x, self.ammunition.y)
        validation = self.trigger.validation
        strike = units(gradients(model, armed, self.ammunition.y, differentiable=True))
        usual = units(gradients(model, validation.x, validation.y, differentiable=True))
        # A last bias moves no second derivative of a linear head: it may well be out of the graph.
        s = torch.autograd.grad(inner(strike, usual), list(model.parameters()), materialize_grads=True)
        return units(s)
