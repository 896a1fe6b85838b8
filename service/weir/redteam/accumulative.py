"""Accumulative poisoning with a trigger batch: prepare the model quietly, then strike.

Source: Pang, Yang, Dong, Su and Zhu, Accumulative Poisoning Attacks on Real-time Data, NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from weir.core.probe import content
from weir.redteam.attack import Attack
from weir.redteam.gradients import Gradients, Objective, ascend, gradients, inner, units
from weir.redteam.threat import ThreatModel
from weir.types import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Trigger:
    """Turns a batch's gradient against the gradient of the attacker's ``validation`` samples (x float32).

    It minimises Σ cos(∇L(batch), ∇L(validation)), one cosine per parameter tensor; with ``train_mode`` batch norm
    takes its statistics from the batch meanwhile.
    """

    threat: ThreatModel
    validation: Batch = field(repr=False)
    steps: int = 10
    train_mode: bool = False

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Samples that a step should learn for the model to forget; see Attack."""
        return ascend(self.objective(model, x, y), x, self.threat, steps=self.steps)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """What it maximises over moved samples (n, *shape): how far they oppose the validation samples."""
        forgotten = units(gradients(model, self.validation.x, self.validation.y, train_mode=self.train_mode))
        return opposition(model, y, forgotten, train_mode=self.train_mode)


@dataclass(frozen=True, slots=True, eq=False)
class Accumulative:
    """Prepares the model for a trigger made of ``ammunition``, with batches that look like learning.

    With s = ∇θ Σ cos(∇L(trigger), ∇L(validation)) it maximises Σ ⟨ĝ(batch), disguise · ĝ(clean batch) + ŝ⟩, where a
    hat divides each parameter tensor by its norm: a step on the batch then lowers those cosines. ``strike`` is what
    will craft the trigger batch, where that is not the ``trigger`` alone.
    """

    trigger: Trigger
    ammunition: Batch = field(repr=False)
    steps: int = 10
    disguise: float = 1.0
    train_mode: bool = False
    strike: Attack | None = None

    @property
    def threat(self) -> ThreatModel:
        """The trigger's budget."""
        return self.trigger.threat

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Samples that prepare the model; see Attack."""
        return ascend(self.objective(model, x, y), x, self.threat, steps=self.steps)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """What it maximises over moved samples (n, *shape): how far a step on them prepares the model."""
        armed = (self.strike or self.trigger).perturb(model, self.ammunition.x, self.ammunition.y)
        strike = Batch(armed, self.ammunition.y)
        towards = strike_direction(model, strike, self.trigger.validation, train_mode=self.train_mode)
        usual = units(gradients(model, x, y, train_mode=self.train_mode))
        return accumulation(model, y, usual, towards, disguise=self.disguise, train_mode=self.train_mode)


def opposition(model: nn.Module, y: Tensor, forgotten: Gradients, *, train_mode: bool = False) -> Objective:
    """How far moved samples (n, *shape) of labels ``y`` oppose these directions, one cosine per parameter tensor."""

    def opposed(moved: Tensor) -> Tensor:
        slopes = gradients(model, moved, y, differentiable=True, train_mode=train_mode)
        return -inner(units(slopes), forgotten)

    return opposed


def strike_direction(model: nn.Module, strike: Batch, validation: Batch, *, train_mode: bool = False) -> Gradients:
    """ŝ: where to move the parameters for a trigger batch to oppose the validation samples further."""
    struck, usual = (
        units(gradients(model, batch.x, batch.y, differentiable=True, train_mode=train_mode))
        for batch in (strike, validation)
    )
    # A last bias moves no second derivative of a linear head: it may well be out of the graph.
    s = torch.autograd.grad(inner(struck, usual), list(model.parameters()), materialize_grads=True)
    return units(s)


def accumulation(
    model: nn.Module,
    y: Tensor,
    usual: Gradients,
    towards: Gradients,
    *,
    disguise: float = 1.0,
    train_mode: bool = False,
) -> Objective:
    """How far a step on moved samples of labels ``y`` goes ``towards`` the strike and, in disguise, as ``usual``."""
    wanted = [disguise * clean + step for clean, step in zip(usual, towards, strict=True)]

    def accumulated(moved: Tensor) -> Tensor:
        slopes = gradients(model, moved, y, differentiable=True, train_mode=train_mode)
        return inner(units(slopes), wanted)

    return accumulated


class Once:
    """Gives the samples that an attack crafted against the first model it met, whatever the model is by now.

    An accumulative phase and its trigger batch that share one aim at a trigger batch that no longer changes.
    """

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._kept: dict[bytes, Tensor] = {}

    def __repr__(self) -> str:
        return f"Once({self._attack!r})"

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The moved samples of the first time that ``x`` and ``y`` were seen; see Attack."""
        key = content(x) + content(y)
        if key not in self._kept:
            self._kept[key] = self._attack.perturb(model, x, y).detach()
        return self._kept[key].clone()
