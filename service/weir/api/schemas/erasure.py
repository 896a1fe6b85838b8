"""Erasing what a producer, a batch or one sample left behind."""

from __future__ import annotations

from typing import Self

from pydantic import Field, StrictBool, model_validator

from weir.api.schemas.common import Command, View


class Erase(Command):
    """Erase the data of exactly one of these."""

    producer: str | None = Field(default=None, max_length=200, description="all that this producer sent")
    batch: str | None = Field(default=None, max_length=200, description="all of this batch")
    sample: str | None = Field(default=None, max_length=200, description="one sample, `{batch}:{index}`")
    dry_run: StrictBool = Field(default=True, description="only say how much fits: send false to erase it")

    @property
    def target(self) -> dict[str, str]:
        """The one that is named, by its kind."""
        return {name: value for name in ("producer", "batch", "sample") if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.target) != 1:
            raise ValueError("exactly one of producer, batch and sample")
        return self


class Erasure(View):
    """How much was erased, or would be."""

    dry_run: bool
    entries: int = Field(description="log entries that lost samples")
    samples: int = Field(description="samples in them")
    quarantine: int = Field(description="samples in the quarantine, whatever their state")
    dead_letters: int = Field(description="each goes whole")
    checkpoints: list[str] | None = Field(
        description="checkpoints whose weights learned from it: erasing changes no weights; null in a dry run"
    )
    checkpoint: str | None = Field(default=None, description="the one saved before it, so that no restart needs it")
