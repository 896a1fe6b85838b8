"""Replays: what to learn again, how far that is, and what came of it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints

from weir.api.schemas.common import Command, View
from weir.types import ReplayOrder, ReplayReport, ReplayState, ReplayVerdicts

_SHOWN = 500
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Names = Annotated[list[_Name], Field(max_length=_SHOWN)]
_Sample = Annotated[str, StringConstraints(pattern=r"^.{1,200}:[0-9]{1,9}$")]


class Replay(Command):
    """Learn all that the log holds since a checkpoint once more, without some of it."""

    checkpoint: _Name = Field(description="where to begin: one that had not learned what is left out")
    producers: _Names = Field(default=[], description="leave out what these sent")
    batches: _Names = Field(default=[], description="leave out these batches")
    samples: Annotated[list[_Sample], Field(max_length=_SHOWN)] = Field(
        default=[], description="leave out these samples, each `{batch}:{index}`"
    )
    verdicts: ReplayVerdicts = Field(
        default=ReplayVerdicts.RECORDED,
        description="recorded: go by the journal; anew: judge again, as if what is left out had never come",
    )

    @property
    def order(self) -> ReplayOrder:
        """The order as the learner knows it."""
        names = tuple(self.producers), tuple(self.batches), tuple(self.samples)
        return ReplayOrder(self.checkpoint, *names, verdicts=self.verdicts)


class OrderView(View):
    """What a replay learns again."""

    checkpoint: str
    producers: list[str]
    batches: list[str]
    samples: list[str] = Field(description="what reviewers discarded is among them; at most 500 are shown")
    verdicts: ReplayVerdicts

    @classmethod
    def of(cls, order: ReplayOrder) -> Self:
        """The order, its lists cut to what a person can read."""
        lists = {name: list(getattr(order, name))[:_SHOWN] for name in ("producers", "batches", "samples")}
        return cls(checkpoint=order.checkpoint, verdicts=order.verdicts, **lists)


class ReplayView(View):
    """A replay: how far it is, and how its result compares on the probe set's report part."""

    id: str
    state: ReplayState
    order: OrderView
    by: str
    created_at: float
    start: int = Field(description="the log position it begins after")
    end: int = Field(description="the log position it goes to")
    position: int = Field(description="how far it is")
    steps: int
    learned: int = Field(description="samples learned so far")
    held: int = Field(description="samples held so far")
    left_out: int = Field(description="samples left out so far")
    accuracy: float | None = Field(description="of its result, 0 to 1; null until it is done")
    accuracy_now: float | None = Field(description="of the model as it was when the replay ended, 0 to 1")
    error: str | None = Field(description="why it failed")

    @classmethod
    def of(cls, report: ReplayReport) -> Self:
        """The report on a job."""
        names = cls.model_fields.keys() - {"order"}
        own: dict[str, Any] = {name: getattr(report, name) for name in names}
        return cls(order=OrderView.of(report.order), **own)


class Published(View):
    """A replay's result that is now the model."""

    candidate: str
    checkpoint: str = Field(description="the checkpoint saved after it; the one before it is kept: roll back to undo")
    step: int
    accuracy: float | None = Field(description="on the probe set's report part, 0 to 1")
    accuracy_before: float | None = Field(description="of the model that it replaced")
    left_out: int = Field(description="samples that the model has no longer learned")
