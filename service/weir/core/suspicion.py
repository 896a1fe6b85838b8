"""Who is suspect: each sample alone, each producer's samples together, and what is left of the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core import mixture
from weir.core.calibration import Calibration, Scores, group_threshold
from weir.core.config import GuardConfig
from weir.core.producers import MAJORITY, Alarm
from weir.core.roster import Roster
from weir.types import Reason

LIKELY = 0.5  # chance of being an attack's from which on a sample counts as the alarm's carrier
POSSIBLE = 0.2  # chance from which on an alarm holds a sample: held wrongly it can be released, learned it stays
QUIET = 0.05  # of clean groups stand out further than what an alarm leaves of its group may


class Suspicion(NamedTuple):
    """Why each sample is suspect (CLEAN: it is not), and what the groups said.

    ``producers`` are suspect as a whole; ``rest`` says that what is left of the step without those that alarm is too.
    """

    reasons: list[Reason]
    step_score: float
    alarms: tuple[Reason, ...]
    producers: frozenset[str]
    rest: bool


class _Seen(NamedTuple):
    """A step's scores, whose they are, and what they are held against."""

    scores: Scores
    roster: Roster
    calibration: Calibration

    def statistic(self, rows: Sequence[int]) -> float:
        """How far these rows together stand out, as a z; nought of none."""
        return float(self.statistics(rows, torch.zeros(1, self.calibration.columns)))

    def statistics(self, rows: Sequence[int], slack: Tensor) -> Tensor:
        """The same with each ``slack`` (slacks, columns) more in their mean score: (slacks,)."""
        if not rows:
            return torch.zeros(len(slack), dtype=torch.float64)
        mean = self.scores.normal[torch.tensor(rows, device=self.scores.normal.device)].mean(0)
        classes = Counter(self.roster.labels[row] for row in rows)
        return self.calibration.group_statistics((mean + slack)[:, None], [classes])[:, 0]


class Jury:
    """Turns calibrated scores into reasons.

    A step that alarms for one producer's sake must not clear the others of it, nor condemn them; and an alarm holds
    the samples that may carry it. It holds all of a group where most of it looks like an attack, and where what is left
    without the likely carriers still does not look clean: who shifts every sample a little leaves none that does.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config

    def suspect(
        self,
        scores: Scores,
        roster: Roster,
        alarms: Mapping[str, Alarm],
        calibration: Calibration,
        *,
        drift: bool,
    ) -> Suspicion:
        """Look at each sample alone, at the producers that alarm, and at what is left of the step without those.

        In ``drift`` an alarm holds no group for what is left of it: a new world is never explained whole, and one that
        is held instead of learned stays new.
        """
        seen = _Seen(scores, roster, calibration)
        bound = group_threshold(self._config.step_rate, calibration.columns)
        others = _others(roster, alarms)
        statistic = left = seen.statistic(range(len(roster.labels)))
        if alarms:
            left = seen.statistic(others)
        alone = (scores.score > scores.threshold).tolist()
        reasons = [Reason.SAMPLE if suspect else Reason.CLEAN for suspect in alone]
        for producer, alarm in alarms.items():
            rows = roster.rows[producer]
            for row in rows if alarm.whole else self._narrowed(seen, rows, alarm.believed, drift=drift):
                reasons[row] = Reason.PRODUCER
        if left > bound:
            believed = mixture.update(mixture.prior(scores.ratios.shape[1]), scores.ratios[others])
            whole = mixture.suspect_share(believed) >= MAJORITY
            for row in others if whole else self._narrowed(seen, others, believed, drift=drift):
                reasons[row] = Reason.STEP
        raised = [Reason.STEP] * (statistic > bound or left > bound) + [Reason.PRODUCER] * bool(alarms)
        blamed = frozenset(producer for producer, alarm in alarms.items() if alarm.whole)
        return Suspicion(reasons, statistic, tuple(raised), blamed, left > bound)

    def foresee(
        self, scores: Scores, roster: Roster, alarming: Container[str], calibration: Calibration, *, slack: Tensor
    ) -> Tensor:
        """How far the step, and what is left of it without producers that alarm, stand out (slacks, 2).

        The z that ``suspect`` holds against its bound, with each ``slack`` (slacks, columns) more in the mean scores.
        """
        seen = _Seen(scores, roster, calibration)
        groups = range(len(roster.labels)), _others(roster, alarming)
        return torch.stack([seen.statistics(rows, slack) for rows in groups], dim=1)

    def _narrowed(self, seen: _Seen, rows: Sequence[int], believed: Tensor, *, drift: bool) -> Sequence[int]:
        """All rows where what is left without the likely carriers does not look clean; else the possible carriers.

        Without the possible ones any rest looks clean: what is usual is left.
        """
        rest = sorted(set(rows) - set(self._carriers(seen.scores, rows, believed, LIKELY)))
        quiet = group_threshold(QUIET, seen.calibration.columns)
        if rest and not drift and seen.statistic(rest) > quiet:
            return rows
        return self._carriers(seen.scores, rows, believed, POSSIBLE)

    def _carriers(self, scores: Scores, rows: Sequence[int], believed: Tensor, chance: float) -> list[int]:
        """The rows with such a chance to carry a group's alarm, and no more clean ones than the narrow rate allows."""
        clean = mixture.responsibilities(believed, scores.ratios[list(rows)])[:, 0]
        unusual = (scores.p[list(rows)] <= self._config.narrow_rate).cpu()
        chosen = (unusual & (clean < 1 - chance)).tolist()
        return [row for row, carries in zip(rows, chosen, strict=True) if carries]


def _others(roster: Roster, alarming: Container[str]) -> list[int]:
    """The rows of producers that do not alarm."""
    return sorted(row for producer, rows in roster.rows.items() if producer not in alarming for row in rows)
