"""Attacks that know the guard: everything but its probe set.

They charge an attack's own objective for the suspicion that its samples would raise, as far as the attacker can tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from weir.core.evidence import Parents, View, signals
from weir.core.familiarity import Familiarity
from weir.core.network import Outputs, Weights
from weir.core.task import Classification
from weir.errors import InvalidSetting
from weir.redteam.attack import Attack
from weir.redteam.gradients import Objective, ascend
from weir.redteam.surrogate import Surrogate
from weir.redteam.threat import ThreatModel
from weir.types import Batch

OWN = 400  # samples that are enough to rebuild the guard from
_TASK = Classification()


class Climb(Attack, Protocol):
    """An attack that climbs an objective within a budget."""

    @property
    def threat(self) -> ThreatModel:
        """The budget."""

    def objective(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """What it maximises over moved samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """Samples (x float32) and the ``scores`` (n,) that the service showed for them, to a reviewer or a reader."""

    batch: Batch
    scores: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Insight:
    """What the attacker knows of the guard: its rules, its ``historical`` weights, and ``own`` clean samples.

    Its score it must rebuild: from the scores ``observed``, or else from what tells its own crafted samples from
    clean ones.
    """

    historical: Weights = field(repr=False)
    own: Batch = field(repr=False)
    observed: Observed | None = field(default=None, repr=False)

    @classmethod
    def of(cls, historical: Weights, *own: Batch) -> Self:
        """From the first samples of these batches (x float32)."""
        x, y = torch.cat([batch.x for batch in own])[:OWN], torch.cat([batch.y for batch in own])[:OWN]
        return cls(historical, Batch(x, y))

    def surrogate(self, sight: Sight, attack: Attack) -> Surrogate:
        """The guard's score as far as this attack on this model can tell; without gradient."""
        with torch.no_grad():
            clean = sight.evidence(self.own.x, self.own.y, inside=True)
        if self.observed is None:
            batch = Batch(attack.perturb(sight.model, self.own.x, self.own.y), self.own.y)
            with torch.no_grad():
                return Surrogate.classifying(clean, sight.evidence(batch.x, batch.y))
        batch = self.observed.batch
        with torch.no_grad():
            return Surrogate.regressing(clean, sight.evidence(batch.x, batch.y), self.observed.scores)


class Sight:
    """Evidence as the guard computes it, from a bare model and samples that the attacker trusts: its own."""

    def __init__(self, model: nn.Module, historical: Weights, own: Batch) -> None:
        self.model = model
        self._historical = {name: tensor.to(own.x.device) for name, tensor in historical.items()}
        self._familiarity = Familiarity(own.x)
        with torch.no_grad():
            trusted = outputs(model, own.x)
            self._influence = None
            if trusted.features is not None:
                self._influence = _TASK.residual(trusted.logits, own.y).T @ trusted.features / len(own)

    def evidence(self, x: Tensor, y: Tensor, *, inside: bool = False) -> Tensor:
        """Signals (n, signals) of ``x`` (n, *shape) in the guard's order; ``inside`` says that they are its own."""
        current, historical = outputs(self.model, x), outputs(self.model, x, self._historical)
        parents = Parents(torch.arange(len(y), device=y.device), x, y, current) if inside else None
        view = View(x, y, current, historical, self._influence, self._familiarity, parents)
        return torch.stack([signal(_TASK, view) for signal in signals(x.shape[1:]).values()], dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Aware:
    """An attack that pays ``penalty`` times the suspicion it raises; at 0 it climbs its objective as it is.

    The objective counts as its mean over the parameter tensors, so that a penalty weighs the same in every model.
    """

    attack: Climb
    insight: Insight
    penalty: float = 1.0
    steps: int = 16  # with half of them a penalty was not worth its price: the score fell, and rose again

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise InvalidSetting("penalty", self.penalty, "0 or a positive number")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Samples that do the attack's work and look like clean ones; see Attack."""
        goal = self.attack.objective(model, x, y)
        sight = Sight(model, self.insight.historical, self.insight.own)
        surrogate = self.insight.surrogate(sight, self.attack)
        tensors = len(list(model.parameters()))

        def charged(moved: Tensor) -> Tensor:
            return goal(moved) / tensors - self.penalty * surrogate.suspicion(sight.evidence(moved, y))

        return ascend(charged, x, self.attack.threat, steps=self.steps)


def outputs(model: nn.Module, x: Tensor, weights: Weights | None = None) -> Outputs:
    """Logits, and the input of the last linear layer that has as many outputs; with other weights if given."""
    seen: dict[nn.Linear, Tensor] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)
        seen[layer] = inputs[0]

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        logits: Tensor = model(x) if weights is None else functional_call(model, dict(weights), (x,))
    finally:
        for hook in hooks:
            hook.remove()
    features = [seen[layer] for layer in layers if layer in seen and layer.out_features == logits.shape[1]]
    return Outputs(logits, features[-1] if features and features[-1].ndim == 2 else None)
