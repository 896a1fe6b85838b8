"""What the client gives back of batches, the model and its guard: frozen values, read from the service's JSON.

Times are Unix seconds, discrepancies are in nats, and None means "not there yet" or "not shown to this key".
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from weir.types import GuardMode, Reason, Recipe, Verdict


@dataclass(frozen=True, slots=True)
class Queued:
    """A command that is in the log and was not carried out while the request lasted."""

    id: str
    state: str
    durability: str


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
    """What the model of ``step`` says: ``classes`` (n,) int64, ``probabilities`` and ``logits`` (n, classes).

    ``staleness_seconds`` is the time since that model was last known to be the learner's newest.
    """

    step: int
    classes: Tensor
    probabilities: Tensor
    logits: Tensor
    staleness_seconds: float


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
    waits_for: str | None
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
    """Whether the service does its work, or ``because`` of what not; ``armed`` says whether it also guards.

    ``durability`` is "relaxed" when ``durability_because`` of what a crash could lose what was acknowledged;
    ``dead_letters`` wait for a person, and it is None when the log does not answer.
    """

    ready: bool
    because: tuple[str, ...]
    armed: bool
    unarmed_because: str | None
    waits_for: str | None = None
    durability: str = "unknown"
    durability_because: tuple[str, ...] = ()
    dead_letters: int | None = None
