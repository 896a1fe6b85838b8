"""Frozen values that every layer shares: what a sample, a step, a verdict and a report are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from torch import Tensor

ServiceRole = Literal["all", "api", "learner"]
"""What one process of the service does: take batches and predict (api), learn (learner), or both."""


class GuardMode(StrEnum):
    """What the guard does with its evidence."""

    WEIR = "weir"
    DSC = "dsc"
    OBSERVE = "observe"
    OFF = "off"


class EvidenceSet(StrEnum):
    """Which signals a verdict may rest on."""

    ALL = "all"  # the image signals where x is an image
    NO_IMAGES = "no-images"
    MODEL = "model"  # nothing that looks at x itself
    DISCREPANCY = "discrepancy"  # the paper's measure alone
    COMPANIONS = "companions"  # all but the divergences between snapshot and model


class Arithmetic(StrEnum):
    """What numbers a pass is made in; auto is bfloat16 for large models on devices made for it."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class DeclinePolicy(StrEnum):
    """What follows when the model has become worse than its best on the probe set, besides the alarm."""

    VETO = "veto"  # no further step that hurts
    ROLLBACK = "rollback"  # the best weights so far are put back
    ALARM = "alarm"  # nothing


class BreakerPolicy(StrEnum):
    """What an open breaker does until an admin closes it."""

    PAUSE = "pause"  # hold every sample: learning pauses, nothing is lost
    OBSERVE = "observe"  # score and let everything pass; the gate stays
    OFF = "off"  # it never opens


class Verdict(StrEnum):
    """What the guard decided on one sample."""

    ACCEPT = "accept"
    CORRECT = "correct"
    QUARANTINE = "quarantine"


class Reason(StrEnum):
    """Why a verdict fell as it did."""

    CLEAN = "clean"  # under every threshold
    UNARMED = "unarmed"  # no threshold yet, or the guard is off
    SAMPLE = "sample"  # the sample's own evidence
    STEP = "step"  # the evidence of the step's samples together
    PRODUCER = "producer"  # the evidence of the producer's recent samples together
    DISCREPANCY = "discrepancy"  # the published rule: mean discrepancy of the step
    NON_FINITE = "non_finite"  # loss or gradient was not a number
    VETO = "veto"  # the gate undid the step
    ROLLBACK = "rollback"  # the gate put the best model back
    BREAKER = "breaker"  # the breaker is open, and learning pauses
    ERROR = "error"  # processing it raised, every time it was tried
    RELEASED = "released"  # a reviewer let it through


Bound = float | tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Shape and range of one sample's ``x`` and the number of classes of ``y``.

    ``low`` and ``high`` bound every value, or each flat feature (``None``: unbounded); ``center`` and ``scale``, one
    number per flat feature, standardise x before the model sees it; ``categorical`` lists the flat features that
    correction must never move.
    """

    shape: tuple[int, ...]
    classes: int
    low: Bound = None
    high: Bound = None
    categorical: tuple[int, ...] = ()
    center: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to build a model: a name or ``package.module:factory``, its options, and what it takes."""

    model: str
    inputs: InputSpec
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_values(self) -> dict[str, Any]:
        """The recipe as JSON-ready values."""
        return {"model": self.model, "inputs": asdict(self.inputs), "options": dict(self.options)}

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> Recipe:
        """The recipe that ``to_values()`` described, also after a trip through JSON."""
        inputs: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values["inputs"].items()}
        return Recipe(values["model"], InputSpec(**inputs), dict(values["options"]))


@dataclass(frozen=True, slots=True)
class Batch:
    """What one POST carries: ``x`` (n, *shape) uint8, float16 or float32; ``y`` (n,) int64; ``ids`` n strings or None.

    uint8 stands for [0, 1] in steps of 1/255 and is scaled on the learner's device.
    """

    x: Tensor
    y: Tensor
    ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, order=True)
class SampleRef:
    """Where a sample came from: the id of its batch and its index in it."""

    batch: str
    index: int


@dataclass(frozen=True, slots=True)
class Step:
    """Samples cut from the log in order, for at most one optimizer update; all fields have the same length n."""

    number: int
    x: Tensor
    y: Tensor
    refs: Sequence[SampleRef]
    producers: Sequence[str]
    released: bool = False  # let through by a reviewer: no verdicts, still finite checks and gate
    forced: bool = False  # let through by an admin: not even the gate

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class SampleVerdict:
    """The verdict on one sample; ``score`` and ``threshold`` are None while the guard is unarmed.

    ``discrepancy`` is in nats; ``pvalue`` is the sample's conformal p-value on the probe set.
    """

    verdict: Verdict
    reason: Reason
    score: float | None = None
    threshold: float | None = None
    discrepancy: float | None = None
    pvalue: float | None = None


@dataclass(frozen=True, slots=True)
class GateReport:
    """The gate's paired test of one tentative step: mean change of the loss (nats), statistic and its bound.

    Without a statistic a glance was enough: ``harm`` is then of some of the samples, since each was last looked at.
    ``declined`` says that the model has become worse than its best, however slowly; ``rolled_back`` that it has been
    put back there. ``share`` is how much of the step was tested last: in drift less is tried before none is kept.
    ``from_rest`` says that this was without the momentum of earlier steps, with which it was refused.
    """

    harm: float
    statistic: float | None = None
    threshold: float | None = None
    vetoed: bool = False
    declined: bool = False
    rolled_back: bool = False
    share: float = 1.0
    from_rest: bool = False

    @property
    def kept(self) -> bool:
        """Whether the step stays in the weights."""
        return not (self.vetoed or self.rolled_back)

    @property
    def shortened(self) -> bool:
        """Whether a part of the step was kept and not all of it."""
        return self.kept and self.share < 1

    @property
    def rested(self) -> bool:
        """Whether the step was kept without the momentum of earlier ones."""
        return self.kept and self.from_rest


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did, in plain numbers: the whole of what metrics, journal and consoles see.

    ``alarms`` are of suspected poisoning; ``drift`` says that producers changed together, which is not. An
    ``alarmed_producer`` is one whose samples are all suspect. ``vaccine_age`` is in steps, None without a vaccine.
    """

    step: int
    updates: int
    mode: GuardMode
    armed: bool
    verdicts: tuple[SampleVerdict, ...]
    producers: tuple[str, ...]
    updated: bool
    loss: float | None = None
    progressive_accuracy: float | None = None
    probe_accuracy: float | None = None
    step_discrepancy: float | None = None
    step_discrepancy_threshold: float | None = None
    step_score: float | None = None
    step_threshold: float | None = None
    sample_threshold: float | None = None
    alarms: tuple[Reason, ...] = ()
    alarmed_producers: tuple[str, ...] = ()
    gate: GateReport | None = None
    drift: bool = False
    probe_stale: bool = False
    breaker_open: bool = False
    vaccine_age: int | None = None
    lag: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> Counter[Verdict]:
        """How many samples got each verdict."""
        return Counter(verdict.verdict for verdict in self.verdicts)

    @property
    def vetoed(self) -> bool:
        """Whether the gate undid the step."""
        return self.gate is not None and self.gate.vetoed


@dataclass(frozen=True, slots=True)
class ProbeInfo:
    """The probe set in words, never its samples: ``version`` heads its SHA-256, ``created_at`` is Unix seconds."""

    version: str
    size: int
    per_class: tuple[int, ...]
    created_at: float
    source: str


class Standing(StrEnum):
    """How a producer's recent samples look together."""

    GOOD = "good"
    WATCHED = "watched"  # its newest samples together are unlike trusted ones: some or all of them are held
    SUSPENDED = "suspended"  # so are all it has sent for a while, and most look like an attack: all are held


@dataclass(frozen=True, slots=True)
class ProducerReport:
    """One producer's record: samples seen, held and corrected, and its evidence against the thresholds.

    ``score`` judges its newest samples, ``sequential_score`` (a CUSUM) all of them; ``suspect_share`` estimates how
    many of its recent samples are an attack's. None before there is any evidence.
    """

    producer: str
    seen: int
    held: int
    corrected: int
    score: float | None
    threshold: float | None
    sequential_score: float | None
    sequential_threshold: float | None
    suspect_share: float | None
    standing: Standing


class ReplayVerdicts(StrEnum):
    """Which verdicts a replay goes by."""

    RECORDED = "recorded"  # those in the journal
    ANEW = "anew"  # the guard judges again, as if what is left out had never come


@dataclass(frozen=True, slots=True)
class ReplayOrder:
    """What to learn again: all that the log holds since a checkpoint, without some of it.

    ``samples`` are ``{batch}:{index}``; what a reviewer discarded is left out in any case.
    """

    checkpoint: str
    producers: tuple[str, ...] = ()
    batches: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    verdicts: ReplayVerdicts = ReplayVerdicts.RECORDED


class ReplayState(StrEnum):
    """Where a replay stands."""

    RUNNING = "running"
    DONE = "done"  # its result is a candidate: it can be published
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """A replay's progress through the log, and how its result compares on the probe set's report part.

    ``start`` and ``end`` are log positions, and ``position`` lies between them; ``accuracy_now`` is the accuracy of the
    learner when the replay ended; ``candidate`` is what publishing it takes.
    """

    id: str
    order: ReplayOrder
    state: ReplayState
    by: str
    created_at: float
    start: int
    end: int
    position: int
    steps: int = 0
    learned: int = 0
    held: int = 0
    left_out: int = 0
    accuracy: float | None = None
    accuracy_now: float | None = None
    candidate: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """An immutable copy of the model that readers use while the learner goes on.

    ``predict`` maps (n, *shape) uint8 or float to logits (n, classes) float32 on the CPU and is safe from any
    thread; ``weights`` are its tensors on the CPU, by name: never write to them.
    """

    step: int
    recipe: Recipe
    predict: Callable[[Tensor], Tensor]
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class LearnerStatus:
    """Where the learner stands; ``unarmed_because`` says what is missing while ``armed`` is False."""

    alive: bool
    failure: str | None
    waits_for: str | None  # what keeps it from going on, such as a full disk; it goes on by itself
    step: int
    updates: int
    position: int
    mode: GuardMode
    armed: bool
    unarmed_because: str | None
    device: str
    parameters: int
    progressive_accuracy: float | None
    probe_accuracy: float | None
    probe: ProbeInfo | None
    probe_stale: bool
    drift: bool
    breaker_open: bool
    vaccine_age: int | None
    unvaccinated_because: str | None
    sample_threshold: float | None
    vetoes: int
    rollbacks: int
    checkpoint: str | None
    producers: tuple[ProducerReport, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """A restorable state: tensors by name, and JSON-ready values beside them."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    def nest(self, prefix: str) -> State:
        """The same state with every name under ``prefix/``."""
        return State({f"{prefix}/{name}": tensor for name, tensor in self.tensors.items()}, {prefix: dict(self.values)})

    def part(self, prefix: str) -> State:
        """The state that was nested under ``prefix``."""
        head = f"{prefix}/"
        tensors = {name[len(head) :]: tensor for name, tensor in self.tensors.items() if name.startswith(head)}
        return State(tensors, self.values.get(prefix, {}))

    @staticmethod
    def merge(*parts: State) -> State:
        """All parts as one state."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for part in parts:
            tensors.update(part.tensors)
            values.update(part.values)
        return State(tensors, values)
