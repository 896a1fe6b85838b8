"""What producers have in common: a change that most of them show at once is the world's, and no one's fault.

Poison of one producer, or of a minority, does not move the median over producers. Drift moves it, and what it
explains is taken out of everybody's evidence before anyone is suspected. No shift explains a new world whole: what
the scores still have in common then is taken out of them as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.calibration import Calibration, Scores, group_threshold
from weir.core.roster import Roster
from weir.core.witnesses import MEMORY, Middle, Recent, Witnesses, means, spreads
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

    def explain(self, residual: Tensor, roster: Roster, step: int, calibration: Calibration) -> Common:
        """Take in one step's residuals (n, k), and take out of them what each producer's others show as well."""
        numbers = residual.double().cpu()
        self._evidence.take(roster, numbers, step)
        asked = self._evidence.asked(step)
        if len(asked) <= OTHERS:
            return Common(residual)
        recent, places = list(asked.values()), _places(roster.rows, among=asked)
        shift, spread = (Middle(of(recent)).without(places) for of in (means, spreads))
        shift = torch.where(shift > self._bounds(roster, calibration), shift, 0.0)
        # Nobody is excused further than he moved himself, nor for a world that became easier.
        shift = torch.minimum(shift, self._evidence.means(roster.rows))
        shift = torch.where(shift > 0, shift, 0.0)  # not: who sent nothing finite has a mean that is no number
        widened = torch.where(shift > 0, spread.clamp_min(1.0), 1.0)
        excused = tuple(compress(roster.rows, (shift > 0).any(1).tolist()))
        newly = tuple(name for name in excused if not self._scores.knows(name, step))
        explained = (numbers - shift[roster.place]) / widened[roster.place]
        return Common(explained.to(residual) if excused else residual, excused, newly)

    def settle(self, scores: Scores, excused: Sequence[str], roster: Roster, step: int) -> Scores:
        """Take out of the scores of explained evidence what those of the other excused producers show as well."""
        columns = torch.cat([scores.normal, scores.ratios], dim=1).double().cpu()
        width = scores.normal.shape[1]
        self._scores.take(roster, columns, step, names=frozenset(excused))
        asked = self._scores.asked(step)
        told = [name for name in excused if len(asked) - (name in asked) >= FEWEST_WITNESSES]
        if not told:
            return scores
        others = Middle(means(list(asked.values()))).without(_places(told, among=asked))
        shared = torch.zeros(len(roster), columns.shape[1], dtype=torch.float64)
        shared[[roster.number[name] for name in told]] = torch.minimum(others, self._scores.means(told))
        normal = columns[:, :width] - shared[:, :width].clamp_min(0.0)[roster.place]
        ratios = columns[:, width:] / shared[:, width:].clamp_min(1.0)[roster.place]
        return replace(scores, normal=normal.to(scores.normal), ratios=ratios.to(scores.ratios))

    def recollection(self, producers: Iterable[str]) -> Recollection:
        """What is known of a step's producers, for ``recollect``: the step may have to be looked at again."""
        names = list(producers)
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

    def _bounds(self, roster: Roster, calibration: Calibration) -> Tensor:
        """How far a median of means may be off by chance, for each producer (producers, 1)."""
        variances = [1 / MEMORY + calibration.shared_variance(classes) for classes in roster.classes]
        z = group_threshold(self._rate, calibration.columns)
        return z * torch.tensor(variances, dtype=torch.float64).sqrt()[:, None]


def _places(names: Iterable[str], *, among: Iterable[str]) -> list[int | None]:
    """Where each name is among others, None where it is not."""
    place = {name: row for row, name in enumerate(among)}
    return [place.get(name) for name in names]
