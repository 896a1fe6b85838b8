"""What producers have in common: a change that most of them show at once is the world's, and no one's fault.

Poison of one producer, or of a minority, does not move the median over producers. Drift moves it, and what it
explains is taken out of everybody's evidence before anyone is suspected. No shift explains a new world whole: what
the scores still have in common then is taken out of them as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.calibration import Calibration, Scores, group_threshold
from weir.core.producers import rows_of
from weir.core.witnesses import MEMORY, Middle, Recent, Witnesses, means_and_spreads
from weir.types import State

OTHERS = 3  # producers besides one's own: fewer cannot outvote a hostile one
FEWEST_WITNESSES = 2  # others whose scores are asked: of two the lower counts, which one hostile producer cannot raise


class Common(NamedTuple):
    """Residual evidence (n, k) without what is common, and whom it excuses; ``newly`` are those who were not before."""

    residual: Tensor
    excused: tuple[str, ...] = ()
    newly: tuple[str, ...] = ()

    @property
    def drift(self) -> bool:
        """Whether anything was common."""
        return bool(self.excused)


class Recollection(NamedTuple):
    """What was known of some producers."""

    evidence: Mapping[str, Recent | None]
    scores: Mapping[str, Recent | None]


class Consensus:
    """The newest evidence of every producer, and the median over the others of each."""

    def __init__(self, *, rate: float, most: int) -> None:
        """``rate`` is the share of clean steps that may be called drift; ``most`` bounds the producers kept."""
        self._rate = rate
        self._evidence = Witnesses(most)
        self._scores = Witnesses(most)  # of those who are excused alone

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
        means, spreads = (Middle(of) for of in means_and_spreads(list(asked.values())))
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
            if middle is None or len(asked) - (name in asked) < FEWEST_WITNESSES:
                continue
            shared = torch.minimum(middle.without(place.get(name)), self._scores.mean(name))
            normal[sent[name]] -= shared[:width].clamp_min(0.0)
            ratios[sent[name]] /= shared[width:].clamp_min(1.0)
        return replace(scores, normal=normal.to(scores.normal), ratios=ratios.to(scores.ratios))

    def recollection(self, producers: Sequence[str]) -> Recollection:
        """What is known of a step's producers, for ``recollect``: the step may have to be looked at again."""
        names = dict.fromkeys(producers)
        return Recollection(*({name: heard.copy(name) for name in names} for heard in (self._evidence, self._scores)))

    def recollect(self, known: Recollection) -> None:
        """Know of these producers what was known of them then; the order in which they were heard of last stays."""
        for heard, recent in zip((self._evidence, self._scores), known, strict=True):
            heard.put_back(recent)

    def state(self) -> State:
        """Everything a restart needs."""
        return State.merge(self._evidence.state(), self._scores.state().nest("scores"))

    def load_state(self, state: State) -> None:
        """Replace what is known of every producer."""
        self._evidence.load_state(state)
        scores = state.part("scores")
        self._scores.load_state(scores if scores.values else Witnesses(0).state())  # earlier versions had none

    def forget(self) -> None:
        """Start anew: the evidence has another meaning now."""
        self._evidence.forget()
        self._scores.forget()

    def forget_scores(self) -> None:
        """Start the scores anew: their columns have another meaning now, and those of the evidence have not."""
        self._scores.forget()

    def _bound(self, labels: Sequence[int], calibration: Calibration) -> float:
        """How far a median of means may be off by chance."""
        classes = {label: labels.count(label) for label in set(labels)}
        variance = 1 / MEMORY + calibration.shared_variance(classes)
        return float(group_threshold(self._rate, calibration.columns) * variance**0.5)
