"""What the models of several resources share."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from weir.stores.base import EntryKind, Held, JournalledSample
from weir.types import Reason, Verdict

_T = TypeVar("_T")


class View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(View, Generic[_T]):
    """A list."""

    items: list[_T]
    next: str | None = Field(default=None, description="`cursor` of the next page; null on the last")


class Queued(View):
    """A command that is in the log and was not carried out within the time that a request may take."""

    id: str = Field(description="the id of its log entry")
    state: Literal["queued"] = "queued"
    durability: Literal["durable", "relaxed"] = Field(
        description="durable: it survives a crash of the machine; relaxed: /health/ready says what could lose it"
    )


class CommandState(StrEnum):
    """Where a command stands."""

    QUEUED = "queued"
    DONE = "done"
    FAILED = "failed"


class CommandView(View):
    """A command in the log."""

    id: str = Field(description="the id of its log entry")
    kind: EntryKind
    by: str = Field(description="whose key it came with")
    state: CommandState
    result: dict[str, Any] | None = Field(default=None, description="what it gave, once it is done")
    error: dict[str, Any] | None = Field(default=None, description="why it failed: `code` and `detail`")


class VerdictView(View):
    """The guard's evidence on a sample."""

    verdict: Verdict
    reason: Reason = Field(description="why it fell so")
    score: float | None = Field(description="the score that was judged; null while unarmed")
    threshold: float | None = Field(description="the threshold it was judged by; null while unarmed")
    discrepancy: float | None = Field(description="memorization discrepancy, nats")
    pvalue: float | None = Field(description="conformal p-value on the probe set")
    step: int = Field(description="the step that decided")


def verdict_values(source: JournalledSample | Held) -> dict[str, Any]:
    names = ("verdict", "reason", "score", "threshold", "discrepancy", "pvalue")
    return {name: getattr(source.verdict, name) for name in names}
