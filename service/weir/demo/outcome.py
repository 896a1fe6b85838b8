"""Did the attack bite, did the guard hold, and did the guarded model still learn?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from weir.demo.record import GUARDED, REFERENCE, UNGUARDED, Record
from weir.demo.story import Phase

LEAST_HARM = 5.0  # points that the unguarded model must lose for the run to prove anything
MOST_HARM = 3.0  # points that the guarded model may lose
LEAST_KEPT = 0.6  # share of the reference's gain that the guarded model must reach


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must be true, with its figures in words."""

    name: str
    passed: bool
    figures: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accuracies in percent: medians of the judged evaluations after the trigger and at the end."""

    after_trigger: dict[str, float]
    end: dict[str, float]
    gain: dict[str, float]
    conditions: tuple[Condition, ...]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(condition.passed for condition in self.conditions)

    def to_values(self) -> dict[str, Any]:
        """The outcome as JSON-ready values."""
        return {**asdict(self), "passed": self.passed}


def judge(record: Record, *, judged: int) -> Outcome:
    """Compare the services over the same ``judged`` positions of the honest stream, by the median."""
    after = [moment for moment in record.moments if moment.phase is Phase.AFTER]
    trigger = {name: 100 * median(m.accuracy[name] for m in after[:judged]) for name in record.start}
    end = {name: 100 * median(m.accuracy[name] for m in after[-judged:]) for name in record.start}
    gain = {name: end[name] - 100 * start for name, start in record.start.items()}
    conditions = (
        _bites(trigger[REFERENCE] - trigger[UNGUARDED]),
        _holds(trigger[REFERENCE] - trigger[GUARDED]),
        _learns(gain[GUARDED], gain[REFERENCE]),
    )
    return Outcome(trigger, end, gain, conditions)


def _bites(lost: float) -> Condition:
    figures = f"{lost:.1f} points below the reference after the trigger; at least {LEAST_HARM:g} expected"
    return Condition("the attack bites without a guard", lost >= LEAST_HARM, figures)


def _holds(lost: float) -> Condition:
    where = f"{lost:.1f} points below" if lost >= 0 else f"{-lost:.1f} points above"
    figures = f"{where} the reference after the trigger; at most {MOST_HARM:g} below allowed"
    return Condition("the guard stops it", lost <= MOST_HARM, figures)


def _learns(guarded: float, reference: float) -> Condition:
    name = "the guarded model still learns"
    if reference <= 0:
        return Condition(name, False, f"nothing to compare with: the reference gained {reference:.1f} points")
    figures = (
        f"{guarded:+.1f} points from start to end, {guarded / reference:.0%} of the reference's {reference:+.1f}; "
        f"at least {LEAST_KEPT:.0%} expected"
    )
    return Condition(name, guarded >= LEAST_KEPT * reference, figures)
