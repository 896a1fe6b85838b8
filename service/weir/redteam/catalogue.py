"""Every attack by name, as the deliveries that it is made of; honest trouble stands beside the attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat

import torch

from weir.core.network import Weights
from weir.errors import InvalidSetting
from weir.redteam.accumulative import Accumulative, Trigger
from weir.redteam.attack import Attack
from weir.redteam.aware import Aware, Insight
from weir.redteam.backdoor import Patch
from weir.redteam.corruption import Corruption
from weir.redteam.drift import Drift
from weir.redteam.labels import PairwiseFlip, RandomFlip
from weir.redteam.pool import Pool
from weir.redteam.ratchet import Ratchet
from weir.redteam.skew import Skew
from weir.redteam.threat import Knowledge, ThreatModel
from weir.types import Batch, InputSpec

STRIKE = 4  # batches whose samples one trigger batch holds
HONEST = ThreatModel(epsilon=1.0, low=None, high=None, knowledge=Knowledge.NOTHING)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One batch (x float32, in the model's units) before what happens to it on its way."""

    batch: Batch
    corruption: Corruption


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """What an attacker brings: ``samples`` to send, others that it wants to spoil (``validation``), and its budget.

    Unset ``epsilon`` and ``fraction`` are the attack's own. ``historical`` weights are for whom knows the guard.
    """

    inputs: InputSpec
    samples: Batch = field(repr=False)
    validation: Batch = field(repr=False)
    batches: int
    size: int
    producers: int = 1
    epsilon: float | None = None
    fraction: float | None = None
    penalty: float = 1.0
    historical: Weights | None = field(default=None, repr=False)
    seed: int = 0

    def threat(
        self, knowledge: Knowledge, *, epsilon: float = 0.3, fraction: float = 1.0, features: float = 1.0
    ) -> ThreatModel:
        """A budget; epsilon and fraction are the attacker's own where it set them."""
        low, high = (None if isinstance(bound, tuple) else bound for bound in (self.inputs.low, self.inputs.high))
        standardised = self.inputs.center is not None or self.inputs.scale is not None
        return ThreatModel(
            epsilon=epsilon if self.epsilon is None else self.epsilon,
            low=None if standardised else low,
            high=None if standardised else high,
            fraction=fraction if self.fraction is None else self.fraction,
            features=features,
            classes=self.inputs.classes,
            knowledge=knowledge,
        )

    @property
    def insight(self) -> Insight:
        """What it knows of the guard; raises InvalidSetting without historical weights."""
        if self.historical is None:
            raise InvalidSetting("historical", None, "the weights that the guard compares with")
        return Insight.of(self.historical, self.validation, self.samples)

    def throughout(self, corruption: Corruption) -> Iterator[Delivery]:
        """The same to every batch."""
        pool = Pool(self.samples, self.seed)
        return (Delivery(pool.batch(self.size), corruption) for _ in range(self.batches))


Make = Callable[[Arms], Iterator[Delivery]]


def accumulative(arms: Arms) -> Iterator[Delivery]:
    """prepares quietly, then strikes (Pang et al., 2021)"""
    threat = arms.threat(Knowledge.WEIGHTS)
    trigger = Trigger(threat, arms.validation)
    return _prepared(arms, threat, trigger, lambda strike: Accumulative(trigger, strike))


def adaptive(arms: Arms) -> Iterator[Delivery]:
    """the same, knowing the guard: all but its probe set"""
    threat = arms.threat(Knowledge.GUARD)
    plain, insight = Trigger(threat, arms.validation), arms.insight
    trigger = Aware(plain, insight, arms.penalty)

    def prepare(strike: Batch) -> Attack:
        return Aware(Accumulative(plain, strike, strike=trigger), insight, arms.penalty)

    return _prepared(arms, threat, trigger, prepare)


def trigger(arms: Arms) -> Iterator[Delivery]:
    """trigger batches alone, each crafted anew"""
    threat = arms.threat(Knowledge.WEIGHTS)
    return arms.throughout(Corruption(threat, Trigger(threat, arms.validation)))


def ratchet(arms: Arms) -> Iterator[Delivery]:
    """a flood of mildly moved samples, each chosen to pass"""
    threat = arms.threat(Knowledge.WEIGHTS, epsilon=0.1)
    return arms.throughout(Corruption(threat, Ratchet(threat, arms.validation)))


def label_flip(arms: Arms) -> Iterator[Delivery]:
    """a share of random wrong labels"""
    threat = arms.threat(Knowledge.NOTHING, fraction=0.2)
    return arms.throughout(Corruption(threat, labels=RandomFlip(arms.inputs.classes, arms.seed)))


def label_flip_pairwise(arms: Arms) -> Iterator[Delivery]:
    """a share of labels moved to the next class"""
    threat = arms.threat(Knowledge.NOTHING, fraction=0.2)
    return arms.throughout(Corruption(threat, labels=PairwiseFlip(arms.inputs.classes)))


def backdoor(arms: Arms) -> Iterator[Delivery]:
    """a patch that means class 0 (Gu et al., 2017)"""
    patch, (height, width) = corner(arms.inputs), arms.inputs.shape[1:]
    share = min(1.0, patch.size**2 / (height * width))
    threat = arms.threat(Knowledge.NOTHING, epsilon=1.0, fraction=0.05, features=share)
    return arms.throughout(Corruption(threat, patch, patch))


def noisy_labels(arms: Arms) -> Iterator[Delivery]:
    """honest: a few labels got wrong by mistake"""
    threat = arms.threat(Knowledge.NOTHING, fraction=0.05)
    return arms.throughout(Corruption(threat, labels=RandomFlip(arms.inputs.classes, arms.seed), hostile=False))


def drift(arms: Arms) -> Iterator[Delivery]:
    """honest: images turn and fade more with every batch"""
    end, threat = Drift(degrees=30, contrast=0.6), arms.threat(Knowledge.NOTHING, epsilon=1.0)
    for number, delivery in enumerate(arms.throughout(Corruption(threat)), 1):
        yield Delivery(delivery.batch, Corruption(threat, end.at(number / arms.batches), hostile=False))


def skewed(arms: Arms) -> Iterator[Delivery]:
    """honest: producers that see one or two classes each"""
    pools = [Pool(_of_class(arms.samples, label), arms.seed) for label in sorted(set(arms.samples.y.tolist()))]
    skew = Skew(producers=arms.producers, classes=len(pools), seed=arms.seed)
    for number in range(arms.batches):
        kinds = skew.labels(number % arms.producers, arms.size, batch=number).tolist()
        drawn = [pools[kind].batch(1) for kind in kinds]
        batch = Batch(torch.cat([one.x for one in drawn]), torch.cat([one.y for one in drawn]))
        yield Delivery(batch, Corruption(HONEST, hostile=False))


def corner(inputs: InputSpec) -> Patch:
    """A patch for inputs of this shape; raises InvalidSetting for what has no corner."""
    if len(inputs.shape) != 3:
        raise InvalidSetting("x", list(inputs.shape), "images [c, h, w]: a patch needs a corner")
    return Patch(target=0, size=max(3, inputs.shape[-1] // 8))


@dataclass(frozen=True, slots=True)
class Entry:
    """An attack, what its attacker has to know, and the ``patch`` that it teaches, if it is a backdoor."""

    make: Make
    knowledge: Knowledge = Knowledge.NOTHING
    patch: Callable[[InputSpec], Patch] | None = None

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return str(self.make.__doc__)


CATALOGUE: dict[str, Entry] = {
    entry.make.__name__: entry
    for entry in (
        Entry(accumulative, Knowledge.WEIGHTS),
        Entry(adaptive, Knowledge.GUARD),
        Entry(trigger, Knowledge.WEIGHTS),
        Entry(ratchet, Knowledge.WEIGHTS),
        Entry(label_flip),
        Entry(label_flip_pairwise),
        Entry(backdoor, patch=corner),
        Entry(noisy_labels),
        Entry(drift),
        Entry(skewed),
    )
}


def _prepared(
    arms: Arms, threat: ThreatModel, trigger: Attack, prepare: Callable[[Batch], Attack]
) -> Iterator[Delivery]:
    """All but the last batch prepare; the last is the trigger batch, and holds more samples than the others."""
    pool = Pool(arms.samples, arms.seed)
    strike = pool.batch(min(STRIKE * arms.size, len(arms.samples)))
    preparing = Corruption(threat, prepare(strike))
    batches = (pool.batch(arms.size) for _ in range(arms.batches - 1))
    return chain(map(Delivery, batches, repeat(preparing)), [Delivery(strike, Corruption(threat, trigger))])


def _of_class(samples: Batch, label: int) -> Batch:
    rows = (samples.y == label).nonzero().flatten()
    return Batch(samples.x[rows], samples.y[rows])
