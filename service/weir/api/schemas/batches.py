"""Batches and what became of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field

from weir.api.schemas.common import Queued, VerdictView, View, verdict_values
from weir.stores.base import JournalledSample


class Accepted(Queued):
    """A batch that is durably in the log."""

    samples: int = Field(description="how many samples it carries")


class BatchState(StrEnum):
    """What became of a batch: what is true of all its samples, else `partial`; `dead` if any could not be processed."""

    QUEUED = "queued"
    LEARNED = "learned"
    PARTIAL = "partial"
    HELD = "held"
    VETOED = "vetoed"
    ROLLED_BACK = "rolled_back"
    DEAD = "dead"


class Counts(View):
    """How many samples of a batch got each verdict, and how many wait for one."""

    accept: int
    correct: int
    quarantine: int
    pending: int


class SampleView(VerdictView):
    """The verdict on one sample of a batch."""

    index: int = Field(description="its place in the batch")
    id: str | None = Field(description="the producer's own id for it")

    @classmethod
    def of(cls, line: JournalledSample, id: str | None) -> Self:
        """One line of the journal."""
        return cls(index=line.index, id=id, step=line.step, **verdict_values(line))


class BatchView(View):
    """A batch: its state and counts, and for readers and reviewers its verdicts."""

    id: str
    state: BatchState
    producer: str
    samples: int = Field(description="how many samples it carries")
    counts: Counts
    step: int | None = Field(description="the last step that decided on it; null for producers")
    verdicts: list[SampleView] | None = Field(description="the verdicts so far, by index; null for producers")
