"""Model, optimizer and step; and the exact undo of a step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.chance import seeded
from weir.core.config import LearnerConfig
from weir.core.gate import finite
from weir.core.layout import like
from weir.core.network import Network
from weir.core.probe import content
from weir.core.ranks import ALONE, Ranks
from weir.core.sgd import Sgd
from weir.core.task import Task
from weir.types import State, Step


class Before(NamedTuple):
    """Everything a step changes, as it was."""

    weights: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    updates: int

    def state(self) -> State:
        """The same as a state."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.items()}
        for index, values in self.optimizer.items():
            tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in values.items()}
        return State(tensors, {"updates": self.updates})

    @staticmethod
    def from_state(state: State, device: torch.device) -> Before:
        """What ``state()`` described, on a device."""
        optimizer: dict[int, dict[str, Tensor]] = {}
        for path, tensor in state.part("optimizer").tensors.items():
            index, name = path.split("/", 1)
            optimizer.setdefault(int(index), {})[name] = tensor.to(device)
        weights = {name: tensor.to(device) for name, tensor in state.part("weights").tensors.items()}
        return Before(weights, optimizer, int(state.values["updates"]))


class Learner:
    """Owns the weights and the optimizer; ``updates`` counts the updates that are in the weights."""

    def __init__(self, network: Network, task: Task, config: LearnerConfig, ranks: Ranks = ALONE) -> None:
        self._network = network
        self._task = task
        self._config = config
        self._ranks = ranks
        self._optimizer = Sgd(
            network.module.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        shares = network.trains_as_it_scores(freeze_norm=config.freeze_norm)
        self._shares = bool(ranks.agree(torch.tensor([int(shares)])))
        self.updates = 0

    @property
    def shares(self) -> bool:
        """Whether logits made for scoring may be learned from: a pass in train mode would give the same."""
        return self._shares

    def step(
        self,
        x: Tensor,
        y: Tensor,
        *,
        seed: int,
        scored: Tensor | None = None,
        total: int | None = None,
        size: int | None = None,
    ) -> float | None:
        """One update on prepared samples; returns the mean loss, or None (nothing changed) when it is not finite.

        ``seed`` drives whatever is random inside the model, and the running generators stay as they were, so an
        undone step leaves no trace and a repeated one repeats exactly. ``scored`` are logits (n, classes) of ``x``
        with the graph that made them, from the weights as they are; they spare a pass where the learner ``shares``.
        ``total`` is how many samples all ranks learn, where ``x`` and ``y`` are this rank's, none perhaps.

        ``size`` is what the sum of their gradients is divided by: the samples of the step, those included that are
        held, or of a full step where that is more. So a sample never weighs more because others are held or missing,
        and what slips through beside what is held does not move the model as far as a whole step. The L2 penalty
        shrinks with it; statistics of batch norm that learn do not.
        """
        total = total or len(y)
        size = size or total
        if scored is not None:
            loss = self._descend(lambda: scored, y, total, size, [])
            if loss is not None:
                return loss
            # A held sample in the same graph, infinite inside, makes gradients of nought times infinity: leave it out.
        freeze_norm = self._config.freeze_norm or total == 1  # one sample has no statistics
        seed ^= self._ranks.rank  # else every rank would drop the same of its first sample
        with seeded(seed, self._network.device), self._network.training(freeze_norm=freeze_norm):
            buffers = [buffer.clone() for buffer in self._network.module.buffers()]
            return self._descend(lambda: self._network.module(x), y, total, size, buffers)

    def _descend(
        self, logits: Callable[[], Tensor], y: Tensor, total: int, size: int, buffers: list[Tensor]
    ) -> float | None:
        """Follow the gradient unless it is not finite; then put back the ``buffers`` that the forward pass found."""
        self._optimizer.zero_grad()
        loss = torch.zeros((), device=self._network.device)
        with self._ranks.together("learn"):
            if len(y):
                loss = self._task.loss(logits(), y).sum() / size
                loss.backward()  # type: ignore[no-untyped-call]
        pairs = list(zip(self._network.module.buffers(), buffers, strict=bool(buffers)))
        # A constant buffer may be infinite by design, such as an attention mask.
        sound = finite(loss, *(now.where(kept.isfinite(), kept.new_zeros(())) for now, kept in pairs))
        loss, odd = loss.detach(), (~sound).to(loss)
        sound = finite(*self._added_up(loss, odd)) & (odd == 0)
        share, fine = torch.stack([loss, sound.to(loss)]).tolist()  # the device is read once
        if not fine:
            for now, kept in pairs:
                now.copy_(kept)
            return None
        self._optimizer.step(total / size)
        self.updates += 1
        return float(share) * size / total

    def _added_up(self, *figures: Tensor) -> list[Tensor]:
        """Figures and gradients, summed over the ranks in place; a parameter that no rank used has no gradient."""
        parameters = list(self._network.module.parameters())
        if self._ranks.size > 1:
            used = torch.tensor([float(p.grad is not None) for p in parameters], device=self._network.device)
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            self._ranks.add([*figures, used, *gradients])
            for parameter, gradient, count in zip(parameters, gradients, used.tolist(), strict=True):
                parameter.grad = gradient if count else None
        return [*figures, *(p.grad for p in parameters if p.grad is not None)]

    def capture(self, *, into: Before | None = None) -> Before:
        """A copy of everything that a step changes, in the memory of an earlier one that nobody needs any more."""
        old = into or Before({}, {}, 0)
        optimizer = {
            place: copied({"momentum_buffer": momentum}, old.optimizer.get(place, {}))
            for place, momentum in self._optimizer.momenta.items()
        }
        return Before(copied(self._network.module.state_dict(), old.weights), optimizer, self.updates)

    def restore(self, before: Before) -> None:
        """Undo, bit for bit, whatever happened since ``before`` was captured."""
        self._network.load(before.weights)
        parameters = list(self._network.module.parameters())
        # Copies: the next step changes them in place.
        self._optimizer.momenta = {
            place: like(held["momentum_buffer"], parameters[place]) for place, held in before.optimizer.items()
        }
        self.updates = before.updates

    def halve(self, before: Before) -> None:
        """Go half of the way back to ``before``, momentum included: what is left is a step of half the rate."""
        with torch.no_grad():
            for name, tensor in self._network.module.state_dict().items():
                _go_halfway(tensor, before.weights[name])
            for place, momentum in self._optimizer.momenta.items():
                was = before.optimizer.get(place)
                _go_halfway(momentum, was["momentum_buffer"] if was else torch.zeros_like(momentum))

    def come_to_rest(self) -> None:
        """Forget the momentum of the steps so far; the weights stay."""
        self._optimizer.momenta.clear()

    def state(self) -> State:
        """Everything a restart needs."""
        return self.capture().state()

    def load_state(self, state: State) -> None:
        """Replace weights, optimizer state and the count of updates."""
        self.restore(Before.from_state(state, self._network.device))


def _go_halfway(tensor: Tensor, to: Tensor) -> None:
    """Half of the way from a tensor to another, in place; what counts, and what did not move, stays as it is.

    A constant may be infinite, and half of the way from there to there is no number.
    """
    if tensor.is_floating_point():
        tensor.copy_(torch.where(tensor == to, tensor, tensor.lerp(to, 0.5)))


def copied(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors, each in the memory of the one of its name where there is one: new memory costs more."""
    return {
        name: into[name].copy_(tensor.detach()) if name in into else tensor.detach().clone()
        for name, tensor in tensors.items()
    }


def content_seed(seed: int, step: Step) -> int:
    """A seed that depends on what is learned, not on when or how it came: 63 bits of the samples' digest."""
    digest = hashlib.sha256(f"{seed}|".encode() + content(step.x) + content(step.y)).digest()
    return int.from_bytes(digest[:8], "big") >> 1
