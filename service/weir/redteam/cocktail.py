"""What Weir vaccinates itself with: the known attacks, each a little different from any that will come.

The guard crafts them from its probe set, so that no attacker's data, patch or budget is in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from weir.core.vaccine import Strain
from weir.redteam.accumulative import accumulation, opposition, strike_direction
from weir.redteam.gradients import ascend, ascend_each, gradients, units
from weir.redteam.labels import RandomFlip
from weir.redteam.threat import ThreatModel, victim
from weir.types import Batch

ATTACKS = ("accumulative", "trigger", "label_flip", "backdoor")
FLIPS = 2  # wrong labels for every sample
MARKS = 4  # backdoors, each of a place, a pattern and a target of its own
MARKED = 0.5  # share of the samples that carry one
LARGEST_MARK = 6  # one part in so many of an image's side, or of a sample's features


@dataclass(frozen=True, slots=True, kw_only=True)
class Cocktail:
    """Several attacks at several budgets, as a poisoner for ``weir.core.Engine``; ``without`` leaves some out.

    ``epsilons`` are L∞ budgets in units of x as the model sees it; crafting takes ``steps`` sign steps.
    """

    epsilons: tuple[float, ...] = (8 / 255, 0.1, 0.3)
    steps: int = 2
    without: frozenset[str] = frozenset()

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, *, low: Tensor | None, high: Tensor | None, seed: int
    ) -> Sequence[Strain]:
        """Strains made from prepared ``x`` (n, *shape) and ``y`` (n,); see ``weir.core.vaccine.Poisoner``."""
        draw = torch.Generator().manual_seed(seed)
        made = [*self._crafted(module, x, y, low, high, draw), *_flipped(module, x, y, seed)]
        made += _marked(x, y, low, high, draw)
        return [strain for strain in made if strain.name not in self.without]

    def _crafted(
        self, module: nn.Module, x: Tensor, y: Tensor, low: Tensor | None, high: Tensor | None, draw: torch.Generator
    ) -> Iterator[Strain]:
        """Each half is poisoned to spoil the other, within every budget."""
        if {"accumulative", "trigger"} <= self.without:
            return
        halves = torch.randperm(len(y), generator=draw).to(y.device).tensor_split(2)
        threats = [ThreatModel(epsilon=epsilon, low=low, high=high) for epsilon in self.epsilons]
        model = victim(module)
        pairs = (halves, halves[::-1])
        made = [_turned(model, x, y, own, others, threats, self.steps) for own, others in pairs]
        for strains in zip(*made, strict=True):
            yield from chain(*strains)


def _turned(
    model: nn.Module, x: Tensor, y: Tensor, own: Tensor, others: Tensor, threats: Sequence[ThreatModel], steps: int
) -> list[tuple[Strain, Strain]]:
    """For every budget, rows turned against the others: all as a trigger, three quarters as what prepares for the rest.

    As ``Trigger`` and ``Accumulative`` craft them; what no budget changes is computed once for all of them.
    """
    strike, quiet = own.tensor_split([len(own) // 4])
    # Rows in the order of their features: convolutions follow the layout of their input.
    whole, struck, calm = (Batch(x[rows].contiguous(), y[rows]) for rows in (own, strike, quiet))
    validation = Batch(x[others], y[others])
    forgotten = units(gradients(model, validation.x, validation.y))
    usual = units(gradients(model, calm.x, calm.y))
    triggers = ascend_each(opposition(model, whole.y, forgotten), whole.x, threats, steps=steps)
    armed = ascend_each(opposition(model, struck.y, forgotten), struck.x, threats, steps=steps)
    strains = []
    for threat, trigger, ammunition in zip(threats, triggers, armed, strict=True):
        towards = strike_direction(model, Batch(ammunition, struck.y), validation)
        quiet_ones = ascend(accumulation(model, calm.y, usual, towards), calm.x, threat, steps=steps)
        strains.append((Strain("trigger", trigger, whole.y, own), Strain("accumulative", quiet_ones, calm.y, quiet)))
    return strains


def _flipped(module: nn.Module, x: Tensor, y: Tensor, seed: int) -> Iterator[Strain]:
    everyone = torch.arange(len(y), device=y.device)
    for number in range(FLIPS):
        labels = RandomFlip(_classes(module, x), seed + number).relabel(module, x, y)
        yield Strain("label_flip", x, labels, everyone)


def _marked(x: Tensor, y: Tensor, low: Tensor | None, high: Tensor | None, draw: torch.Generator) -> Iterator[Strain]:
    """Samples of other classes that carry a mark of extreme values and claim the target's label."""
    bottom, top = (x.amin(0) if low is None else low), (x.amax(0) if high is None else high)
    present = torch.tensor(sorted(set(y.tolist())), device=y.device)
    for _ in range(MARKS):
        target = present[int(torch.randint(len(present), (1,), generator=draw))]
        others = (y != target).nonzero().flatten()
        chosen = others[torch.randperm(len(others), generator=draw)[: round(MARKED * len(y))].to(y.device)]
        where = _place(x.shape[1:], draw).to(x.device)
        pattern = torch.randint(0, 2, x.shape[1:], generator=draw).bool().to(x.device)
        marked = torch.where(where, torch.where(pattern, top, bottom), x[chosen])
        yield Strain("backdoor", marked, target.expand(len(chosen)), chosen)


def _place(shape: torch.Size, draw: torch.Generator) -> Tensor:
    """Which features of a sample a mark covers: a square of an image, else a few at random."""
    where = torch.zeros(shape, dtype=torch.bool)
    if len(shape) != 3:
        count = max(1, where.numel() // LARGEST_MARK)
        where.view(-1)[torch.randperm(where.numel(), generator=draw)[:count]] = True
        return where
    side = int(torch.randint(2, max(3, min(shape[1:]) // LARGEST_MARK) + 1, (1,), generator=draw))
    top, left = (int(torch.randint(0, max(1, size - side + 1), (1,), generator=draw)) for size in shape[1:])
    where[:, top : top + side, left : left + side] = True
    return where


def _classes(module: nn.Module, x: Tensor) -> int:
    """How many there are, asked of a copy: in train mode a forward pass would move batch norm's statistics."""
    with torch.no_grad():
        return int(deepcopy(module).eval()(x[:2]).shape[1])
