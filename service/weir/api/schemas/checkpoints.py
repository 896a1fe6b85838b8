"""Checkpoints, and the way back to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from weir.api.schemas.common import Command, Page, View
from weir.stores.base import CheckpointInfo, Cursor


class CursorView(View):
    """The next sample to learn."""

    position: int
    offset: int = Field(description="samples into the first entry past position")


class CheckpointView(View):
    """A durable, restorable state of the model."""

    id: str
    step: int
    cursor: CursorView
    created_at: float
    bytes: int
    reason: str
    digest: str = Field(description="SHA-256")
    replayable: bool = Field(description="whether the log still has all that came after it: a replay can begin here")

    @classmethod
    def of(cls, info: CheckpointInfo, floor: int) -> Self:
        """A checkpoint's header, beside a log that begins after ``floor``."""
        own = {name: getattr(info, name) for name in cls.model_fields if name not in ("cursor", "replayable")}
        cursor = CursorView.model_validate(info.cursor)
        return cls(cursor=cursor, replayable=info.cursor.position >= floor, **own)

    @classmethod
    def of_result(cls, result: Mapping[str, Any], floor: int) -> Self:
        """A checkpoint's header as the journal tells it."""
        return cls.of(CheckpointInfo(**{**result, "cursor": Cursor(*result["cursor"])}), floor)


class CheckpointPage(Page[CheckpointView]):
    """The checkpoints, and how far back the log goes."""

    floor: int = Field(description="the last log position that was dropped; 0: none was")


class SaveCheckpoint(Command):
    """Save a checkpoint now."""

    reason: str = Field(default="manual", min_length=1, max_length=200)


class Rollback(Command):
    """Restore older weights; the cursor stays, for what came since is the suspect."""

    checkpoint: str = Field(description="its id", max_length=200)


class RolledBack(View):
    """What a rollback did."""

    restored: str = Field(description="the checkpoint whose weights are back")
    checkpoint: str = Field(description="the checkpoint saved after it")
    step: int = Field(description="the step of the restored weights")
    steps: int = Field(description="how many steps were undone")
