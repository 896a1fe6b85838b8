"""Deliveries that could not be processed."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from weir.api.schemas.common import View
from weir.stores.base import DeadLetter


class DeadLetterView(View):
    """Samples of one batch that could not be processed, however often that was tried."""

    id: str = Field(description="`{batch}:{first}`")
    batch: str
    first: int = Field(description="the place of the first of them in the batch")
    samples: int = Field(description="how many they are")
    producer: str
    step: int = Field(description="the step that gave up")
    error: str = Field(description="what was raised")
    at: float
    retried_as: str | None = Field(description="the batch that they were sent as anew")

    @classmethod
    def of(cls, letter: DeadLetter, **more: Any) -> Self:
        """A letter of the store."""
        names = DeadLetterView.model_fields
        return cls(**{name: getattr(letter, name) for name in names}, **more)


class DeadLetterDetail(DeadLetterView):
    """A dead letter, and what it carries in words."""

    shape: list[int] = Field(description="of all its x together")
    dtype: str = Field(description="uint8, float16 or float32")
    labels: list[int]
    sample_ids: list[str] | None = Field(description="the producer's own ids")


class Retried(View):
    """A dead letter that was sent anew."""

    id: str
    batch: str = Field(description="the batch it is now: look at /v1/batches/{batch}")
    samples: int
