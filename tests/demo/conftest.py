"""Runs made by hand: what the services did is written down, not played."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from weir.demo.record import GUARDED, REFERENCE, UNGUARDED, Moment, Record, Sighting
from weir.demo.story import Phase

Make = Callable[..., Record]

HONEST = Sighting(
    accepted=19,
    corrected=1,
    held=0,
    discrepancies=(0.1, 0.2),
    discrepancy=0.15,
    discrepancy_threshold=0.3,
    score=1.0,
    score_threshold=3.7,
    progressive_accuracy=0.9,
    step=7,
)
HOSTILE = Sighting(accepted=0, corrected=0, held=20, discrepancies=(0.4, 0.5), score=8.0, score_threshold=3.7)
UNARMED = Sighting(accepted=20, corrected=0, held=0)


def moment(phase: Phase, guarded: float, unguarded: float, reference: float, guard: Sighting | None = None) -> Moment:
    accuracy = {GUARDED: guarded, UNGUARDED: unguarded, REFERENCE: reference}
    return Moment(phase, accuracy, guard or (HOSTILE if phase.hostile else HONEST))


@pytest.fixture
def make() -> Make:
    """A run from 0.80, in which the services do after the trigger what the test says; else all is well."""

    def made(
        *,
        guarded: Sequence[float] = (0.85, 0.86, 0.87, 0.88, 0.89, 0.90),
        unguarded: Sequence[float] = (0.40, 0.50, 0.60, 0.70, 0.80, 0.85),
        reference: Sequence[float] = (0.85, 0.86, 0.87, 0.88, 0.89, 0.90),
        guard: Sighting | None = None,
    ) -> Record:
        before = [moment(phase, 0.82, 0.82, 0.82, guard) for phase in (Phase.BEFORE, Phase.ACCUMULATE, Phase.TRIGGER)]
        after = [moment(Phase.AFTER, *three, guard) for three in zip(guarded, unguarded, reference, strict=True)]
        start = {GUARDED: 0.80, UNGUARDED: 0.80, REFERENCE: 0.80}
        return Record(3, start, (*before, *after), 12.0, {"torch": "2"})

    return made
