"""What the client gives back of samples that were held or could not be processed, and of their review."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from weir.stores.base import HeldState
from weir.types import Reason, Verdict


@dataclass(frozen=True, slots=True)
class HeldSample:
    """A quarantined sample; ``id`` is ``{batch}:{index}``, ``sample_id`` the producer's own id for it."""

    id: str
    batch: str
    index: int
    producer: str
    label: int
    step: int
    held_at: float
    state: HeldState
    verdict: Verdict
    reason: Reason
    score: float | None
    threshold: float | None
    discrepancy: float | None
    pvalue: float | None
    sample_id: str | None = None
    relabel: int | None = None
    resolved_by: str | None = None
    resolved_at: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDetail(HeldSample):
    """A quarantined sample with its ``x`` (*shape) as its step took it: uint8, float16 or float32."""

    x: Tensor


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """What came of a release: ``released``, or ``release_vetoed`` when the gate undid its step."""

    id: str
    state: HeldState
    step: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A sample that a review passed over, and why."""

    id: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class ReviewReport:
    """Which samples a review has answered, or in a ``dry_run`` would: how many of each producer and reason.

    With ``more`` there are others that fit; ``refused`` was no longer held when its turn came.
    """

    action: str
    dry_run: bool
    ids: tuple[str, ...]
    producers: Mapping[str, int]
    reasons: Mapping[Reason, int]
    more: bool
    state: HeldState | None = None
    step: int | None = None
    refused: tuple[Refusal, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class DeadLetterReport:
    """Samples of one batch that could not be processed; ``retried_as`` is the batch that they were sent as anew."""

    id: str
    batch: str
    first: int
    samples: int
    producer: str
    step: int
    error: str
    at: float
    retried_as: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterDetail(DeadLetterReport):
    """A dead letter with what it carries in words: ``shape`` is (n, *shape)."""

    shape: tuple[int, ...]
    dtype: str
    labels: tuple[int, ...]
    sample_ids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RetryReport:
    """A dead letter that was sent anew, as this ``batch``."""

    id: str
    batch: str
    samples: int
