"""Scenarios: who sends what, when, and with which intent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from weir.bench.stream import CROWD, HONEST, HOSTILE, Phase, Stream, Turn
from weir.bench.terms import Material, Terms
from weir.core.network import Weights
from weir.datasets import Dataset
from weir.errors import InvalidSetting
from weir.redteam import (
    Accumulative,
    Attack,
    Aware,
    Corruption,
    Drift,
    Insight,
    Knowledge,
    PairwiseFlip,
    Patch,
    Pool,
    RandomFlip,
    Ratchet,
    Skew,
    ThreatModel,
    Trigger,
)
from weir.types import Batch

SKEWED = 20  # producers of one or two classes each: together they see nearly all
DELIVERIES = 5  # of as many of them, in one step
Samples = TypeVar("Samples", Batch, Dataset)
DRIFT = Drift(degrees=30, contrast=0.6)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a scenario is made from."""

    terms: Terms
    given: Material
    honest: Pool
    ammunition: Pool
    seed: int
    anchor: Weights | None = None  # the guard's historical weights, for whom knows the guard

    @staticmethod
    def of(terms: Terms, given: Material, seed: int, anchor: Weights | None = None) -> Setting:
        """Fresh pools of a seed's material."""
        return Setting(terms, given, Pool(given.honest, 2 * seed), Pool(given.ammunition, 2 * seed + 1), seed, anchor)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.given.recipe.inputs.classes

    @property
    def insight(self) -> Insight:
        """What an attacker knows who knows the guard; raises InvalidSetting where nobody said which anchor it has."""
        if self.anchor is None:
            raise InvalidSetting("anchor", None, "the guard's historical weights")
        return Insight.of(self.anchor, self.given.validation, self.given.ammunition)

    def bounded(self, epsilon: float, *, fraction: float = 1.0) -> ThreatModel:
        """A budget for crafted samples; epsilon and fraction are the terms' where they set them."""
        own = self.terms.epsilon
        return replace(self.unbounded(fraction=fraction), epsilon=epsilon if own is None else own)

    def unbounded(self, *, fraction: float, features: float = 1.0) -> ThreatModel:
        """A budget for labels and for patches, which no epsilon holds; the fraction is the terms' where they set it."""
        share = fraction if self.terms.fraction is None else self.terms.fraction
        return ThreatModel(epsilon=1.0, fraction=share, features=features, classes=self.classes)

    def preparation(self, threat: ThreatModel) -> Accumulative:
        """The accumulative attack, with the batch that it will strike with."""
        steps = self.terms.attack_steps
        trigger = Trigger(threat, self.given.validation, steps=steps)
        return Accumulative(trigger, self.ammunition.batch(self.terms.trigger), steps=steps)

    def quiet(self, count: int, phase: Phase, *, producers: Sequence[str] = HONEST) -> Iterator[Turn]:
        """Batches as honest producers send them, in turn."""
        for number in range(count):
            yield _turn(phase, self.honest.batch(self.terms.batch), producers[number % len(producers)])

    def mixed(self, size: int, phase: Phase, corruption: Corruption) -> Turn:
        """One batch of which the attacker owns its share and honest people the rest, all under one key."""
        own = corruption.threat.hostile(size)
        theirs, mine = self.ammunition.batch(own), self.honest.batch(size - own)
        batch = Batch(torch.cat([theirs.x, mine.x]), torch.cat([theirs.y, mine.y]))
        return _turn(phase, batch, CROWD, corruption)


def clean(setting: Setting) -> Stream:
    """A stationary world and honest producers."""
    terms = setting.terms
    return Stream(list(setting.quiet(terms.before + terms.attack + terms.after, Phase.AFTER)))


def accumulative(setting: Setting) -> Stream:
    """One producer prepares the model, then strikes; every sample it sends is crafted."""
    threat = setting.bounded(0.3)
    prepare = setting.preparation(threat)
    return _prepared(setting, threat, prepare, prepare.trigger, prepare.ammunition)


def adaptive(setting: Setting) -> Stream:
    """The accumulative attack by someone who knows the guard, and pays a penalty for what it would see."""
    penalty, insight = setting.terms.penalty, setting.insight
    threat = replace(setting.bounded(0.3), knowledge=Knowledge.GUARD)
    plain = setting.preparation(threat)
    trigger = Aware(plain.trigger, insight, penalty)
    return _prepared(
        setting, threat, Aware(replace(plain, strike=trigger), insight, penalty), trigger, plain.ammunition
    )


def mixed(setting: Setting) -> Stream:
    """The accumulative attack owns a share of every batch, and of the trigger batch."""
    threat = setting.bounded(0.3, fraction=0.3)
    prepare = setting.preparation(threat)
    return _sandwich(setting, Corruption(threat, prepare), Corruption(threat, prepare.trigger))


def producer(setting: Setting) -> Stream:
    """Four honest producers and a hostile one send batches in turn; only whose key it is tells them apart."""
    terms = setting.terms
    threat = setting.bounded(0.3)
    prepare = setting.preparation(threat)
    turns = [*setting.quiet(terms.before, Phase.BEFORE)]
    for name in (HOSTILE, *HONEST) * terms.attack:
        own = name == HOSTILE
        batch = (setting.ammunition if own else setting.honest).batch(terms.batch)
        turns.append(_turn(Phase.ATTACK, batch, name, Corruption(threat, prepare) if own else None))
    turns += _strikes(setting, threat, prepare.trigger, prepare.ammunition)
    return Stream([*turns, *setting.quiet(terms.after, Phase.AFTER)])


def label_flip(setting: Setting) -> Stream:
    """A share of every batch carries a random wrong label."""
    threat = setting.unbounded(fraction=0.2)
    return _sandwich(setting, Corruption(threat, labels=RandomFlip(setting.classes, setting.seed)))


def label_flip_pairwise(setting: Setting) -> Stream:
    """A share of every batch carries the label of the next class."""
    threat = setting.unbounded(fraction=0.2)
    return _sandwich(setting, Corruption(threat, labels=PairwiseFlip(setting.classes)))


def backdoor(setting: Setting) -> Stream:
    """A share of every batch carries a patch and the target's label; a small share needs many batches."""
    shape = setting.given.recipe.inputs.shape
    patch = Patch(target=0, size=max(3, shape[-1] // 8))
    threat = setting.unbounded(fraction=0.05, features=patch.size**2 / (shape[-1] * shape[-2]))
    return Stream(_sandwich(setting, Corruption(threat, patch, patch), rounds=5).turns, patch=patch)


def ratchet(setting: Setting) -> Stream:
    """A flood of mildly moved samples of one producer, each chosen to pass."""
    terms = setting.terms
    threat = setting.bounded(0.1)
    corruption = Corruption(threat, Ratchet(threat, setting.given.validation))
    turns = [*setting.quiet(terms.before, Phase.BEFORE)]
    flood = (setting.ammunition.batch(terms.batch) for _ in range(3 * terms.attack))
    turns += [_turn(Phase.ATTACK, batch, HOSTILE, corruption) for batch in flood]
    return Stream([*turns, *setting.quiet(terms.after, Phase.AFTER)])


def skewed(setting: Setting) -> Stream:
    """Steps of small deliveries from many honest producers, who see one or two classes each; one class is rare."""
    terms, rare = setting.terms, setting.classes - 1
    skew = Skew(producers=SKEWED, classes=setting.classes, rare=rare, seed=setting.seed)
    honest = setting.given.honest
    pools = [Pool(honest.select((honest.y == label).nonzero().flatten()), label) for label in range(setting.classes)]
    own = terms.batch // DELIVERIES
    turns = []
    for number in range(terms.before + terms.attack + terms.after):
        senders = [(number * DELIVERIES + delivery) % SKEWED for delivery in range(DELIVERIES)]
        labels = torch.cat([skew.labels(who, own, batch=number) for who in senders])
        drawn = [pools[label].batch(1) for label in labels.tolist()]
        batch = Batch(torch.cat([one.x for one in drawn]), torch.cat([one.y for one in drawn]))
        turns.append(Turn(Phase.AFTER, batch, [f"skewed{who}" for who in senders for _ in range(own)]))
    return Stream(turns)


def noisy_labels(setting: Setting) -> Stream:
    """Honest producers who get a share of their labels wrong."""
    threat = setting.unbounded(fraction=0.05)
    noise = Corruption(threat, labels=RandomFlip(setting.classes, setting.seed), hostile=False)
    return Stream([Turn(turn.phase, turn.batch, turn.producers, noise) for turn in clean(setting).turns])


def drift_gradual(setting: Setting) -> Stream:
    """The world turns and fades a little with every batch."""
    return _drifting(setting, lambda share: share)


def drift_sudden(setting: Setting) -> Stream:
    """The world turns and fades from one batch to the next."""
    return _drifting(setting, lambda share: 1.0)


def drift_crowd(setting: Setting) -> Stream:
    """The same under one key: nobody is there who could tell that it is the world."""
    return _drifting(setting, lambda share: 1.0, producers=[CROWD])


def drift_cover(setting: Setting) -> Stream:
    """The world changes from one batch to the next, and under its cover a fifth producer prepares and strikes."""
    terms, given = setting.terms, setting.given
    moved = replace(
        given,
        honest=_moved(given.honest),
        ammunition=_moved(given.ammunition),
        validation=_moved(given.validation),
    )
    later = Setting.of(replace(terms, before=0), moved, setting.seed, setting.anchor)
    return Stream([*setting.quiet(terms.before, Phase.BEFORE), *producer(later).turns], drift=DRIFT)


SCENARIOS: dict[str, Callable[[Setting], Stream]] = {
    scenario.__name__: scenario
    for scenario in (
        clean,
        accumulative,
        adaptive,
        mixed,
        producer,
        label_flip,
        label_flip_pairwise,
        backdoor,
        skewed,
        noisy_labels,
        ratchet,
        drift_gradual,
        drift_sudden,
        drift_crowd,
        drift_cover,
    )
}


def _turn(phase: Phase, batch: Batch, producer: str, corruption: Corruption | None = None) -> Turn:
    return Turn(phase, batch, [producer] * len(batch), corruption)


def _prepared(setting: Setting, threat: ThreatModel, prepare: Attack, trigger: Attack, strike: Batch) -> Stream:
    """Honest batches, one producer's accumulative phase and its trigger batches, and honest ones again."""
    terms = setting.terms
    turns = [*setting.quiet(terms.before, Phase.BEFORE)]
    for _ in range(terms.attack):
        batch = setting.ammunition.batch(terms.batch)
        turns.append(_turn(Phase.ATTACK, batch, HOSTILE, Corruption(threat, prepare)))
    turns += _strikes(setting, threat, trigger, strike)
    return Stream([*turns, *setting.quiet(terms.after, Phase.AFTER)])


def _strikes(setting: Setting, threat: ThreatModel, trigger: Attack, strike: Batch) -> list[Turn]:
    """Trigger batches, each crafted anew, from the hostile producer."""
    corruption = Corruption(threat, trigger)
    return [_turn(Phase.TRIGGER, strike, HOSTILE, corruption) for _ in range(setting.terms.strikes)]


def _sandwich(setting: Setting, corruption: Corruption, strike: Corruption | None = None, *, rounds: int = 1) -> Stream:
    """Honest batches, mixed ones, perhaps a mixed trigger batch, and honest ones again."""
    terms = setting.terms
    turns = [*setting.quiet(terms.before, Phase.BEFORE, producers=[CROWD])]
    turns += [setting.mixed(terms.batch, Phase.ATTACK, corruption) for _ in range(rounds * terms.attack)]
    if strike:
        turns += [setting.mixed(terms.trigger, Phase.TRIGGER, strike) for _ in range(terms.strikes)]
    return Stream([*turns, *setting.quiet(terms.after, Phase.AFTER, producers=[CROWD])])


def _drifting(setting: Setting, way: Callable[[float], float], *, producers: Sequence[str] = HONEST) -> Stream:
    terms = setting.terms
    everything = ThreatModel(epsilon=1.0)
    turns = [*setting.quiet(terms.before, Phase.BEFORE, producers=producers)]
    count = terms.attack + terms.after
    for number, turn in enumerate(setting.quiet(count, Phase.AFTER, producers=producers), 1):
        moved = Corruption(everything, DRIFT.at(min(1.0, way(2 * number / count))), hostile=False)
        turns.append(Turn(turn.phase, turn.batch, turn.producers, moved))
    return Stream(turns, drift=DRIFT)


def _moved(samples: Samples) -> Samples:
    """The same samples in the world after the drift."""
    return replace(samples, x=DRIFT.perturb(nn.Identity(), samples.x, samples.y))
