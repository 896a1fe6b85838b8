"""What the client gives back: frozen values, read from the service's JSON.

Times are Unix seconds, discrepancies are in nats, and None means "not there yet" or "not shown to this key".
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar, cast

import httpx
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from weir.codec import decode_tensors
from weir.errors import InvalidBatch, ServiceUnavailable
from weir.stores.base import HeldState
from weir.types import GuardMode, Reason, Recipe, Verdict

_SAMPLE_DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "float32": torch.float32}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Queued:
    """A command that is in the log and was not carried out while the request lasted."""

    id: str
    state: str


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """A batch that is in the log; with the ``durability`` "durable" it survives a crash of the machine."""

    id: str
    state: str
    samples: int
    durability: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many samples of a batch got each verdict, and how many wait for one."""

    accept: int
    correct: int
    quarantine: int
    pending: int


@dataclass(frozen=True, slots=True)
class SampleReport:
    """The verdict on one sample of a batch; ``id`` is the producer's own."""

    index: int
    id: str | None
    step: int
    verdict: Verdict
    reason: Reason
    score: float | None
    threshold: float | None
    discrepancy: float | None
    pvalue: float | None


@dataclass(frozen=True, slots=True)
class BatchReport:
    """A batch: its state and counts, and for readers and reviewers its last step and its verdicts so far."""

    id: str
    state: str
    producer: str
    samples: int
    counts: Counts
    step: int | None = None
    verdicts: tuple[SampleReport, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model of ``step`` says: ``classes`` (n,) int64, ``probabilities`` and ``logits`` (n, classes)."""

    step: int
    classes: Tensor
    probabilities: Tensor
    logits: Tensor


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
class ModelReport:
    """Where the learner stands; ``recipe`` and ``published_step`` are None before the first published model."""

    step: int
    updates: int
    position: int
    published_step: int | None
    recipe: Recipe | None
    device: str
    parameters: int
    alive: bool
    failure: str | None
    mode: GuardMode
    armed: bool
    unarmed_because: str | None
    sample_threshold: float | None
    progressive_accuracy: float | None
    probe_accuracy: float | None
    probe_stale: bool
    drift: bool
    breaker_open: bool
    vaccine_age: int | None
    unvaccinated_because: str | None
    vetoes: int
    rollbacks: int
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """A rollback: the ``restored`` checkpoint, the one saved after it, the step now, and how many steps were undone."""

    restored: str
    checkpoint: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The probe set in words; ``stale`` means that steps of honest producers keep being vetoed."""

    version: str
    size: int
    per_class: tuple[int, ...]
    created_at: float
    age_seconds: float
    source: str
    stale: bool


@dataclass(frozen=True, slots=True)
class ModeReport:
    """What the guard does with its evidence, whether it is armed, and if not, what is missing."""

    mode: GuardMode
    armed: bool
    unarmed_because: str | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service does its work, or ``because`` of what not; ``armed`` says whether it also guards."""

    ready: bool
    because: tuple[str, ...]
    armed: bool
    unarmed_because: str | None


def read(kind: type[_T], response: httpx.Response) -> _T:
    """The answer's JSON as a value of ``kind``, without fields that it does not know; raises ServiceUnavailable."""
    try:
        value: _T = _adapter(cast(Any, kind)).validate_json(response.content)
    except ValidationError as error:
        raise _foreign(response, str(error)) from None
    return value


def read_page(kind: type[_T], response: httpx.Response) -> tuple[tuple[_T, ...], str | None]:
    """The items of a list, and the cursor of the next page; raises ServiceUnavailable."""
    page = read(_Page, response)
    try:
        return tuple(_adapter(cast(Any, kind)).validate_python(item) for item in page.items), page.next
    except ValidationError as error:
        raise _foreign(response, str(error)) from None


def read_prediction(response: httpx.Response) -> Prediction:
    """The rows of a prediction as tensors; raises ServiceUnavailable."""
    rows = read(_Rows, response)
    return Prediction(
        rows.step,
        torch.tensor(rows.classes, dtype=torch.int64),
        torch.tensor(rows.probabilities, dtype=torch.float32),
        torch.tensor(rows.logits, dtype=torch.float32),
    )


def read_held(response: httpx.Response) -> HeldDetail:
    """A quarantined sample with its data; raises ServiceUnavailable."""
    sample, data = read(HeldSample, response), read(_Data, response)
    try:
        x = torch.tensor(data.x, dtype=_SAMPLE_DTYPES[data.dtype])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _foreign(response, repr(error)) from None
    return HeldDetail(**{field.name: getattr(sample, field.name) for field in fields(sample)}, x=x)


def read_weights(response: httpx.Response) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and their metadata; raises ServiceUnavailable."""
    try:
        return decode_tensors(response.content)
    except InvalidBatch as error:
        raise _foreign(response, str(error)) from None


@dataclass(frozen=True, slots=True)
class _Page:
    items: list[Any]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class _Data:
    dtype: str
    x: list[Any]


@dataclass(frozen=True, slots=True)
class _Rows:
    step: int
    classes: list[int]
    probabilities: list[list[float]]
    logits: list[list[float]]


@cache  # building one costs far more than using it
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _foreign(response: httpx.Response, why: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"{response.url} gave an answer that this client does not know: {why}")
