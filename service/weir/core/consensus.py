"""What producers have in common: a change that most of them show at once is the world's, and no one's fault.

Poison of one producer, or of a minority, does not move the median over producers. Drift moves it, and what it
explains is taken out of everybody's evidence before anyone is suspected. No shift explains a new world whole: what
the scores still have in common then is taken out of them as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.calibration import Calibration, Scores, group_threshold
from weir.core.producers import rows_of
from weir.types import State

MEMORY = 50.0  # samples of a producer after which older ones have faded
ESTABLISHED = 25.0  # samples that make a producer's mean worth asking
OTHERS = 3  # producers besides one's own: fewer cannot outvote a hostile one
WITNESSES = 2  # others whose scores are asked: of two the lower counts, which one hostile producer cannot raise
ACTIVE = 100  # steps after which a silent producer has no say in what the world is like now
MOST_ASKED = 200  # producers, the most recent ones


class Common(NamedTuple):
    """Residual evidence (n, k) without what is common, and whom it excuses; ``newly`` are those who were not before."""

    residual: Tensor
    excused: tuple[str, ...] = ()
    newly: tuple[str, ...] = ()

    @property
    def drift(self) -> bool:
        """Whether anything was common."""
        return bool(self.excused)


@dataclass(slots=True)
class _Recent:
    """Faded sums (k,) of a producer's residuals and of their squares; its weight in samples, its last step."""

    sums: Tensor
    squares: Tensor
    weight: float = 0.0
    step: int = 0

    def take(self, rows: Tensor, step: int) -> None:
        rows = rows[rows.isfinite().all(1)]
        kept = min(1.0, max(0.0, MEMORY - len(rows)) / self.weight) if self.weight else 0.0
        self.sums = self.sums * kept + rows.sum(0)
        self.squares = self.squares * kept + rows.square().sum(0)
        self.weight = self.weight * kept + len(rows)
        self.step = step

    @property
    def mean(self) -> Tensor:
        return self.sums / self.weight


class Middle:
    """Medians of the columns of values (n, k), the lower of two, without any one row: sorted once, not each time."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._ordered = values.sort(0).values

    def without(self, row: int | None) -> Tensor:
        """Medians (k,) of all rows but this one; of all for None."""
        n = len(self._ordered)
        if row is None:
            return self._ordered[(n - 1) // 2]
        # The lower median of the n - 1 others, which a row at or below it makes one place later.
        middle = (n - 2) // 2
        at, later = self._ordered[middle], self._ordered[middle + 1]
        return torch.where(self._values[row] <= at, later, at)


class Crowd:
    """The newest numbers of every producer, and what the others of each have in common."""

    def __init__(self, most: int) -> None:
        """``most`` bounds the producers kept."""
        self._most = most
        self._recent: OrderedDict[str, _Recent] = OrderedDict()

    def take(self, name: str, rows: Tensor, step: int) -> None:
        """Take in a producer's rows (n, k) of a step."""
        nothing = torch.zeros(rows.shape[1], dtype=rows.dtype)
        self._recent.setdefault(name, _Recent(nothing, nothing)).take(rows, step)
        self._recent.move_to_end(name)
        if len(self._recent) > self._most:
            self._recent.popitem(last=False)

    def knows(self, name: str, step: int) -> bool:
        """Whether a producer was heard of lately."""
        return name in self._recent and step - self._recent[name].step <= ACTIVE

    def copy(self, name: str) -> _Recent | None:
        """What is known of a producer, None where that is nothing."""
        return replace(self._recent[name]) if name in self._recent else None

    def put_back(self, known: Mapping[str, _Recent | None]) -> None:
        """Replace what is known of some producers by copies made earlier."""
        for name, recent in known.items():
            if recent is None:
                self._recent.pop(name, None)
            else:
                self._recent[name] = replace(recent)

    def mean(self, name: str) -> Tensor:
        """The mean (k,) of a producer's newest numbers."""
        return self._recent[name].mean

    def asked(self, step: int) -> dict[str, _Recent]:
        """Who has a say, the most recent first."""
        newest = islice(reversed(self._recent.items()), MOST_ASKED)
        return {
            name: recent for name, recent in newest if recent.weight >= ESTABLISHED and step - recent.step <= ACTIVE
        }

    def state(self) -> State:
        """Everything a restart needs."""
        values = {"producers": [[name, recent.weight, recent.step] for name, recent in self._recent.items()]}
        if not self._recent:
            return State({}, values)
        sums, squares = (
            torch.stack([getattr(recent, name) for recent in self._recent.values()]) for name in ("sums", "squares")
        )
        return State({"sums": sums, "squares": squares}, values)

    def load_state(self, state: State) -> None:
        """Replace what is known of every producer."""
        self._recent = OrderedDict(
            (name, _Recent(state.tensors["sums"][row].clone(), state.tensors["squares"][row].clone(), weight, step))
            for row, (name, weight, step) in enumerate(state.values["producers"])
        )

    def forget(self) -> None:
        """Forget every producer."""
        self._recent.clear()


class Recollection(NamedTuple):
    """What was known of some producers."""

    evidence: Mapping[str, _Recent | None]
    scores: Mapping[str, _Recent | None]


class Consensus:
    """The newest evidence of every producer, and the median over the others of each."""

    def __init__(self, *, rate: float, most: int) -> None:
        """``rate`` is the share of clean steps that may be called drift; ``most`` bounds the producers kept."""
        self._rate = rate
        self._evidence = Crowd(most)
        self._scores = Crowd(most)  # of those who are excused alone

    def explain(
        self, residual: Tensor, labels: Sequence[int], producers: Sequence[str], step: int, calibration: Calibration
    ) -> Common:
        """Take in one step's residuals (n, k), and take out of them what each producer's others show as well."""
        residual_cpu = residual.double().cpu()
        sent = rows_of(producers)
        for name, rows in sent.items():
            self._evidence.take(name, residual_cpu[rows], step)
        asked = self._evidence.asked(step)
        if len(asked) <= OTHERS:
            return Common(residual)
        means, spreads = (Middle(of) for of in _means_and_spreads(list(asked.values())))
        place = {name: row for row, name in enumerate(asked)}
        explained = residual_cpu.clone()
        excused = []
        for name, rows in sent.items():
            shift, spread = (middle.without(place.get(name)) for middle in (means, spreads))
            shift = torch.where(shift > self._bound([labels[row] for row in rows], calibration), shift, 0.0)
            # Nobody is excused further than he moved himself, nor for a world that became easier.
            shift = torch.minimum(shift, self._evidence.mean(name).clamp_min(0.0))
            if bool((shift > 0).any()):
                excused.append(name)
                widened = torch.where(shift > 0, spread.clamp_min(1.0), 1.0)
                explained[rows] = (explained[rows] - shift) / widened
        newly = tuple(name for name in excused if not self._scores.knows(name, step))
        return Common(explained.to(residual), tuple(excused), newly)

    def settle(self, scores: Scores, excused: Sequence[str], producers: Sequence[str], step: int) -> Scores:
        """Take out of the scores of explained evidence what those of the other excused producers show as well."""
        columns = torch.cat([scores.normal, scores.ratios], dim=1).double().cpu()
        width = scores.normal.shape[1]
        normal, ratios = columns[:, :width].clone(), columns[:, width:].clone()
        sent = rows_of(producers)
        for name in excused:
            self._scores.take(name, columns[sent[name]], step)
        asked = self._scores.asked(step)
        place = {name: row for row, name in enumerate(asked)}
        middle = Middle(torch.stack([recent.mean for recent in asked.values()])) if asked else None
        for name in excused:
            if middle is None or len(asked) - (name in asked) < WITNESSES:
                continue
            shared = torch.minimum(middle.without(place.get(name)), self._scores.mean(name))
            normal[sent[name]] -= shared[:width].clamp_min(0.0)
            ratios[sent[name]] /= shared[width:].clamp_min(1.0)
        return replace(scores, normal=normal.to(scores.normal), ratios=ratios.to(scores.ratios))

    def recollection(self, producers: Sequence[str]) -> Recollection:
        """What is known of a step's producers, for ``recollect``: the step may have to be looked at again."""
        names = dict.fromkeys(producers)
        return Recollection(*({name: crowd.copy(name) for name in names} for crowd in (self._evidence, self._scores)))

    def recollect(self, known: Recollection) -> None:
        """Know of these producers what was known of them then; the order in which they were heard of last stays."""
        for crowd, recent in zip((self._evidence, self._scores), known, strict=True):
            crowd.put_back(recent)

    def state(self) -> State:
        """Everything a restart needs."""
        return State.merge(self._evidence.state(), self._scores.state().nest("scores"))

    def load_state(self, state: State) -> None:
        """Replace what is known of every producer."""
        self._evidence.load_state(state)
        scores = state.part("scores")
        self._scores.load_state(scores if scores.values else Crowd(0).state())  # earlier versions had none

    def forget(self) -> None:
        """Start anew: the evidence has another meaning now."""
        self._evidence.forget()
        self._scores.forget()

    def _bound(self, labels: Sequence[int], calibration: Calibration) -> float:
        """How far a median of means may be off by chance."""
        classes = {label: labels.count(label) for label in set(labels)}
        variance = 1 / MEMORY + calibration.shared_variance(classes)
        return float(group_threshold(self._rate, calibration.columns) * variance**0.5)


def _means_and_spreads(asked: Sequence[_Recent]) -> tuple[Tensor, Tensor]:
    """The means (producers, k) of their residuals, and the standard deviations."""
    weights = torch.tensor([recent.weight for recent in asked], dtype=torch.float64)[:, None]
    means = torch.stack([recent.sums for recent in asked]) / weights
    squares = torch.stack([recent.squares for recent in asked]) / weights
    return means, (squares - means.square()).clamp_min(0.0).sqrt()
