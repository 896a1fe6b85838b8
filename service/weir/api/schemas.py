"""The JSON that the API speaks, as models whose descriptions teach it in ``/docs``.

Times are Unix seconds, losses and discrepancies are in nats, null means "not there yet" and never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from weir.stores.base import CheckpointInfo, Cursor, Held, HeldState, JournalledSample
from weir.types import (
    GuardMode,
    LearnerStatus,
    ProbeInfo,
    ProducerReport,
    Publication,
    Reason,
    Recipe,
    Standing,
    Verdict,
)

_T = TypeVar("_T")


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(_View, Generic[_T]):
    """A list."""

    items: list[_T]
    next: str | None = Field(default=None, description="`cursor` of the next page; null on the last")


class Queued(_View):
    """A command that is in the log and was not carried out within the time that a request may take."""

    id: str = Field(description="the id of its log entry")
    state: Literal["queued"] = "queued"


class Accepted(Queued):
    """A batch that is durably in the log."""

    samples: int = Field(description="how many samples it carries")
    durability: Literal["durable"] = Field(default="durable", description="durable: it survives a crash of the machine")


class BatchState(StrEnum):
    """What became of a batch: the one thing that is true of all its samples, else `partial`."""

    QUEUED = "queued"
    LEARNED = "learned"
    PARTIAL = "partial"
    HELD = "held"
    VETOED = "vetoed"
    ROLLED_BACK = "rolled_back"
    DEAD = "dead"


class Counts(_View):
    """How many samples of a batch got each verdict, and how many wait for one."""

    accept: int
    correct: int
    quarantine: int
    pending: int


class VerdictView(_View):
    """The guard's evidence on a sample."""

    verdict: Verdict
    reason: Reason = Field(description="why it fell so")
    score: float | None = Field(description="the score that was judged; null while unarmed")
    threshold: float | None = Field(description="the threshold it was judged by; null while unarmed")
    discrepancy: float | None = Field(description="memorization discrepancy, nats")
    pvalue: float | None = Field(description="conformal p-value on the probe set")
    step: int = Field(description="the step that decided")


class SampleView(VerdictView):
    """The verdict on one sample of a batch."""

    index: int = Field(description="its place in the batch")
    id: str | None = Field(description="the producer's own id for it")

    @classmethod
    def of(cls, line: JournalledSample, id: str | None) -> Self:
        """One line of the journal."""
        return cls(index=line.index, id=id, step=line.step, **_verdict(line))


class BatchView(_View):
    """A batch: its state and counts, and for readers and reviewers its verdicts."""

    id: str
    state: BatchState
    producer: str
    samples: int = Field(description="how many samples it carries")
    counts: Counts
    step: int | None = Field(description="the last step that decided on it; null for producers")
    verdicts: list[SampleView] | None = Field(description="the verdicts so far, by index; null for producers")


class Prediction(_View):
    """What the published model says, one row per sample."""

    step: int = Field(description="the step of the model that answered")
    classes: list[int] = Field(description="the most probable class")
    probabilities: list[list[float]] = Field(description="per class, after softmax")
    logits: list[list[float]] = Field(description="per class, before softmax")


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
        return cls(**{name: getattr(held, name) for name in own + review}, **_verdict(held), **more)


class HeldDetail(HeldView):
    """A quarantined sample with its data."""

    dtype: str = Field(description="uint8 (0 to 255 stands for 0 to 1), float16 or float32")
    x: list[Any] = Field(description="the sample as its step took it, nested as its shape")


class Release(_Command):
    """Let a held sample through to the model."""

    label: StrictInt | None = Field(default=None, description="learn it with this label instead of its own")
    note: str | None = Field(default=None, max_length=1000)
    force: StrictBool = Field(default=False, description="admins only: whatever the gate says, and after a veto too")


class Discard(_Command):
    """Never learn a held sample."""

    note: str | None = Field(default=None, max_length=1000)


class Released(_View):
    """What came of a release."""

    id: str
    state: HeldState = Field(description="released, or release_vetoed when the gate undid its step")
    step: int | None = Field(description="the step that learned it")


class InputView(_View):
    """What the model takes."""

    shape: list[int] = Field(description="of one sample's x")
    classes: int
    low: float | list[float] | None = Field(description="smallest allowed value of x, or of each flat feature")
    high: float | list[float] | None = Field(description="largest allowed value of x, or of each flat feature")
    categorical: list[int] = Field(description="flat features that correction never moves")
    center: list[float] | None = Field(description="what the service subtracts from each flat feature of x")
    scale: list[float] | None = Field(description="what it then divides by: send x as it is")


class RecipeView(_View):
    """How the model was built."""

    model: str
    options: dict[str, Any]
    inputs: InputView

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The recipe of the published model."""
        return cls(model=recipe.model, options=dict(recipe.options), inputs=InputView.model_validate(recipe.inputs))


class ModelView(_View):
    """Where the learner stands."""

    step: int
    updates: int = Field(description="steps that changed the weights")
    position: int = Field(description="log position of the last entry that is wholly in the weights")
    published_step: int | None = Field(description="the step of the model that predicts; null before the first")
    recipe: RecipeView | None
    device: str
    parameters: int = Field(description="how many numbers the model has")
    alive: bool = Field(description="whether the trainer runs")
    failure: str | None = Field(description="why it stopped")
    mode: GuardMode
    armed: bool
    unarmed_because: str | None
    sample_threshold: float | None
    progressive_accuracy: float | None = Field(description="of predictions made before learning, 0 to 1")
    probe_accuracy: float | None = Field(description="on the probe set's report part, 0 to 1")
    probe_stale: bool
    drift: bool = Field(description="whether producers were seen to change together at the last step")
    breaker_open: bool = Field(description="whether the guard holds too much to go on; setting the mode closes it")
    vaccine_age: int | None = Field(description="steps since the guard learned what poison looks like; null: never")
    unvaccinated_because: str | None = Field(description="why it never did")
    vetoes: int
    rollbacks: int
    checkpoint: str | None = Field(description="the newest checkpoint")

    @classmethod
    def of(cls, status: LearnerStatus, publication: Publication | None) -> Self:
        """The learner's status and what it published."""
        names = cls.model_fields.keys() - {"published_step", "recipe"}
        return cls(
            published_step=publication.step if publication else None,
            recipe=RecipeView.of(publication.recipe) if publication else None,
            **{name: getattr(status, name) for name in names},
        )


class CursorView(_View):
    """The next sample to learn."""

    position: int
    offset: int = Field(description="samples into the first entry past position")


class CheckpointView(_View):
    """A durable, restorable state of the model."""

    id: str
    step: int
    cursor: CursorView
    created_at: float
    bytes: int
    reason: str
    digest: str = Field(description="SHA-256")

    @classmethod
    def of(cls, info: CheckpointInfo) -> Self:
        """A checkpoint's header."""
        return cls.model_validate(info)

    @classmethod
    def of_result(cls, result: Mapping[str, Any]) -> Self:
        """A checkpoint's header as the journal tells it."""
        return cls.of(CheckpointInfo(**{**result, "cursor": Cursor(*result["cursor"])}))


class SaveCheckpoint(_Command):
    """Save a checkpoint now."""

    reason: str = Field(default="manual", min_length=1, max_length=200)


class Rollback(_Command):
    """Restore older weights; the cursor stays, for what came since is the suspect."""

    checkpoint: str = Field(description="its id", max_length=200)


class RolledBack(_View):
    """What a rollback did."""

    restored: str = Field(description="the checkpoint whose weights are back")
    checkpoint: str = Field(description="the checkpoint saved after it")
    step: int = Field(description="the step of the restored weights")
    steps: int = Field(description="how many steps were undone")


class ProbeView(_View):
    """The probe set in words: never its samples."""

    version: str = Field(description="head of its SHA-256")
    size: int
    per_class: list[int] = Field(description="samples of each class")
    created_at: float
    age_seconds: float
    source: str
    stale: bool = Field(description="whether steps of honest producers keep being vetoed: time for a new one")

    @classmethod
    def of(cls, info: ProbeInfo, *, now: float, stale: bool) -> Self:
        """The probe set at the time ``now``."""
        names = ("version", "size", "per_class", "created_at", "source")
        own = {name: getattr(info, name) for name in names}
        return cls(age_seconds=max(0.0, now - info.created_at), stale=stale, **own)


class ProducerView(_View):
    """A producer's record."""

    producer: str
    seen: int
    held: int
    corrected: int
    score: float | None = Field(description="evidence of its newest samples together")
    threshold: float | None
    sequential_score: float | None = Field(description="evidence of all its samples, a CUSUM")
    sequential_threshold: float | None
    suspect_share: float | None = Field(description="estimated share of its recent samples that are an attack's")
    standing: Standing

    @classmethod
    def of(cls, report: ProducerReport) -> Self:
        """The learner's report on a producer."""
        return cls.model_validate(report)


class SetMode(_Command):
    """Choose what the guard does with its evidence."""

    mode: GuardMode


class ModeView(_View):
    """What the guard does with its evidence."""

    mode: GuardMode
    armed: bool
    unarmed_because: str | None = Field(default=None, description="what is missing")


class Liveness(_View):
    """The process answers."""

    status: Literal["live"] = "live"


class Readiness(_View):
    """Whether the service does its work; `armed` says whether it also guards."""

    ready: bool
    because: list[str] = Field(description="what is missing for ready")
    armed: bool
    unarmed_because: str | None
    breaker_open: bool = Field(description="most producers are held: learning pauses or the guard only observes")


def _verdict(source: JournalledSample | Held) -> dict[str, Any]:
    names = ("verdict", "reason", "score", "threshold", "discrepancy", "pvalue")
    return {name: getattr(source.verdict, name) for name in names}
