"""What was seen in one run of the demo, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from weir.demo.story import Phase

GUARDED, UNGUARDED, REFERENCE = "guarded", "unguarded", "reference"
NAMES = (GUARDED, UNGUARDED, REFERENCE)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the guarded service said of one batch; thresholds and scores are None while there are none.

    ``discrepancies`` are per sample, in nats; ``discrepancy`` is the mean of the batch's last step.
    """

    accepted: int
    corrected: int
    held: int
    discrepancies: tuple[float, ...] = ()
    discrepancy: float | None = None
    discrepancy_threshold: float | None = None
    score: float | None = None
    score_threshold: float | None = None
    progressive_accuracy: float | None = None
    step: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """One batch of the stream, and how accurate each service's model is on the test set after it."""

    phase: Phase
    accuracy: Mapping[str, float]
    guard: Sighting


@dataclass(frozen=True, slots=True)
class Record:
    """A whole run: accuracies at its start, and its moments in order."""

    seed: int
    start: Mapping[str, float]
    moments: tuple[Moment, ...]
    seconds: float
    setup: Mapping[str, Any]

    def accuracies(self, name: str) -> list[float]:
        """One service's accuracies, the one at the start first."""
        return [self.start[name], *(moment.accuracy[name] for moment in self.moments)]

    def to_values(self) -> dict[str, Any]:
        """The run as JSON-ready values."""
        return asdict(self)
