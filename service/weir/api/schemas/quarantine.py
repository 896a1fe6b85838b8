"""Held samples and what a reviewer answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, StrictBool, StrictInt

from weir.api.schemas.common import Command, VerdictView, View, verdict_values
from weir.stores.base import Held, HeldState
from weir.types import Reason


class HeldView(VerdictView):
    """A quarantined sample, without its data."""

    id: str = Field(description="`{batch}:{index}`")
    batch: str
    index: int = Field(description="its place in the batch")
    sample_id: str | None = Field(description="the producer's own id for it")
    producer: str
    label: int = Field(description="the label it came with")
    held_at: float
    state: HeldState
    relabel: int | None = Field(description="the label it was released with, if a reviewer changed it")
    resolved_by: str | None
    resolved_at: float | None
    note: str | None = Field(description="the reviewer's note")

    @classmethod
    def of(cls, held: Held, **more: Any) -> Self:
        """One sample of the store."""
        own = ("id", "batch", "index", "sample_id", "producer", "label", "step", "held_at", "state")
        review = ("relabel", "resolved_by", "resolved_at", "note")
        return cls(**{name: getattr(held, name) for name in own + review}, **verdict_values(held), **more)


class HeldDetail(HeldView):
    """A quarantined sample with its data."""

    dtype: str = Field(description="uint8 (0 to 255 stands for 0 to 1), float16 or float32")
    x: list[Any] = Field(description="the sample as its step took it, nested as its shape")


class Release(Command):
    """Let a held sample through to the model."""

    label: StrictInt | None = Field(default=None, description="learn it with this label instead of its own")
    note: str | None = Field(default=None, max_length=1000)
    force: StrictBool = Field(default=False, description="admins only: whatever the gate says, and after a veto too")


class Discard(Command):
    """Never learn a held sample."""

    note: str | None = Field(default=None, max_length=1000)


class Released(View):
    """What came of a release."""

    id: str
    state: HeldState = Field(description="released, or release_vetoed when the gate undid its step")
    step: int | None = Field(description="the step that learned it")


class Action(StrEnum):
    """What to do with held samples."""

    RELEASE = "release"
    DISCARD = "discard"


class Where(Command):
    """Which held samples; what is left out means any."""

    state: HeldState | None = Field(default=None, description="held if not told; release_vetoed where the action may")
    producer: str | None = None
    reason: Reason | None = None
    batch: str | None = None
    label: StrictInt | None = None


class Review(Release):
    """One answer for all held samples that fit."""

    action: Action
    filter: Where = Where()
    limit: StrictInt = Field(default=100, description="at most so many, in the order they were held; 1 to 500")
    dry_run: StrictBool = Field(default=True, description="only say what would be done: send false to do it")


class Refusal(View):
    """A sample that was passed over, and why."""

    id: str
    code: str
    detail: str


class Reviewed(View):
    """Which samples a review has, or would have, answered."""

    action: Action
    dry_run: bool
    ids: list[str] = Field(description="in the order they were held")
    producers: dict[str, int] = Field(description="how many of them each producer sent")
    reasons: dict[Reason, int] = Field(description="how many of them were held for each reason")
    more: bool = Field(description="whether more fit than the limit: ask again for those")
    state: HeldState | None = Field(default=None, description="what they are now; null if nothing was done")
    step: int | None = Field(default=None, description="the step that learned them")
    refused: list[Refusal] = Field(default=[], description="what was no longer held when its turn came")

    @classmethod
    def of(cls, order: Review, held: Sequence[Held], **more: Any) -> Self:
        """An order's effect on these samples."""
        return cls(
            action=order.action,
            dry_run=order.dry_run,
            ids=[sample.id for sample in held],
            producers=Counter(sample.producer for sample in held),
            reasons=Counter(sample.verdict.reason for sample in held),
            **more,
        )
