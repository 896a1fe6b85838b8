"""Step reports and levels as Prometheus metrics: the only module that imports prometheus_client."""

from __future__ import annotations

from collections import Counter as PyCounter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from weir.types import GateReport, LearnerStatus, ProducerReport, Reason, Standing, StepReport, Verdict

OTHER = "other"
MAX_PRODUCERS = 100

_UNSUSPECTED = frozenset({Reason.CLEAN, Reason.UNARMED, Reason.RELEASED, Reason.BREAKER})
_ALARMS = (Reason.STEP, Reason.PRODUCER, Reason.DISCREPANCY)
_STANDINGS = tuple(Standing)
_NATS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_PVALUES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(tenth / 10 for tenth in range(1, 11)))
_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Outcome(StrEnum):
    """How a delivery ended at the door."""

    TAKEN = "taken"  # durable in the log
    INVALID = "invalid"  # size, type or content
    DENIED = "denied"  # no key, or not its role
    CONFLICT = "conflict"  # its idempotency key belongs to another body
    OVER_QUOTA = "over_quota"  # the producer has too much waiting, or held for review
    BUSY = "busy"  # the log is full, or the service is not ready
    FAILED = "failed"  # a fault of the service


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What is read at every scrape: levels, and moments in Unix seconds beside ``now``.

    ``producers`` are the names that may become labels: those of the issued keys.
    """

    status: LearnerStatus
    inbox_batches: int
    inbox_oldest_at: float | None
    quarantine_samples: int
    quarantine_oldest_at: float | None
    checkpoint_at: float | None
    dead_letters: int
    durability_relaxed: bool
    producers: Collection[str]
    now: float
    staleness: float | None = None  # of the model that answers; None where none does
    device_memory_bytes: int | None = None  # None where the model is in the machine's own memory


@dataclass(frozen=True, slots=True)
class ModelLevels:
    """What is read at every scrape of a replica: the step of the model that answers, and how stale that is."""

    step: int | None
    staleness: float | None


class DoorMetrics:
    """What every process counts that takes batches, in one registry; safe to call from any thread.

    A replica has these alone: what only the learner knows would be a zero here, and a lie.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._batches = self._counter("batches", "Deliveries by how they ended at the door.", "outcome", Outcome)
        ProcessCollector(registry=self.registry)

    def delivered(self, outcome: Outcome) -> None:
        """Count one delivery."""
        self._batches.labels(outcome).inc()

    def watch_model(self, levels: Callable[[], ModelLevels]) -> None:
        """Read these levels at every scrape from now on."""
        self.registry.register(_Model(levels))

    def render(self) -> tuple[bytes, str]:
        """The exposition in the text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, help: str, label: str, values: Collection[str] | type[StrEnum]) -> Counter:
        """A counter whose label values all stand at zero from the start, so that no first rise is lost to a rate."""
        counter = Counter(f"weir_{name}", help, [label], registry=self.registry)
        for value in values:
            counter.labels(value)
        return counter


class Metrics(DoorMetrics):
    """All metrics of a process that learns."""

    def __init__(self, registry: CollectorRegistry | None = None, *, sample_rate: float | None = None) -> None:
        """``sample_rate`` is the configured share of clean samples that may be suspected."""
        super().__init__(registry)
        self._samples = self._counter("samples", "Samples by verdict.", "verdict", Verdict)
        suspicions = [reason for reason in Reason if reason not in _UNSUSPECTED]
        self._suspected = self._counter("poison_suspected", "Suspected samples by reason.", "reason", suspicions)
        self._alarms = self._counter("alarms", "Steps that raised an alarm over many samples.", "reason", _ALARMS)
        self._vetoes = Counter("weir_vetoes", "Steps that the gate undid.", registry=self.registry)
        self._shortened = Counter(
            "weir_steps_shortened", "Steps in drift of which the gate kept a part.", registry=self.registry
        )
        self._rested = Counter(
            "weir_steps_from_rest",
            "Steps that the gate kept without the momentum of earlier ones.",
            registry=self.registry,
        )
        self._drift = Counter(
            "weir_drift_suspected", "Steps at which producers changed together.", registry=self.registry
        )
        self._declines = Counter(
            "weir_declines", "Steps that left the model worse than its best.", registry=self.registry
        )
        self._steps = Counter("weir_steps", "Steps processed.", registry=self.registry)
        self._discrepancy = self._histogram("sample_discrepancy", "Memorization discrepancy per sample, nats.", _NATS)
        self._pvalue = self._histogram("evidence_pvalue", "p-value of each sample on the probe set.", _PVALUES)
        self._seconds = Histogram(
            "weir_stage_duration_seconds",
            "Seconds per stage of a step.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._state = _State(sample_rate)
        self.registry.register(self._state)

    def observe(self, report: StepReport) -> None:
        """Count one step."""
        self._steps.inc()
        self._vetoes.inc(report.vetoed)
        self._shortened.inc(report.gate is not None and report.gate.shortened)
        self._rested.inc(report.gate is not None and report.gate.rested)
        self._drift.inc(report.drift)
        self._declines.inc(report.gate is not None and report.gate.declined)
        for reason in report.alarms:
            self._alarms.labels(reason).inc()
        for verdict, count in report.counts.items():
            self._samples.labels(verdict).inc(count)
        for sample in report.verdicts:
            if sample.reason not in _UNSUSPECTED:
                self._suspected.labels(sample.reason).inc()
            if sample.discrepancy is not None:
                self._discrepancy.observe(sample.discrepancy)
            if sample.pvalue is not None:
                self._pvalue.observe(sample.pvalue)
        for stage, seconds in report.seconds.items():
            self._seconds.labels(stage).observe(seconds)
        self._state.report = report
        if report.gate is None or report.gate.statistic is not None:  # a glance says nothing new
            self._state.tested = report.gate

    def watch(self, levels: Callable[[], Levels]) -> None:
        """Read these levels at every scrape from now on."""
        self._state.levels = levels

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"weir_{name}", help, buckets=buckets, registry=self.registry)


class _Model(Collector):
    """The model that a replica answers with."""

    def __init__(self, levels: Callable[[], ModelLevels]) -> None:
        self._levels = levels

    def describe(self) -> list[Metric]:
        """Nothing; see ``_State.describe``."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Its gauges of this moment."""
        levels = self._levels()
        yield _step(levels.step)
        yield _staleness(levels.staleness)


class _State(Collector):
    """What is true now, made at each scrape; what is not known has no sample, since a zero would be a lie."""

    def __init__(self, sample_rate: float | None) -> None:
        self.report: StepReport | None = None
        self.tested: GateReport | None = None
        self.levels: Callable[[], Levels] | None = None
        self._sample_rate = sample_rate

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not scrape in order to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All gauges of this moment."""
        yield _gauge("sample_rate_ratio", "Share of clean samples that may be suspected.", self._sample_rate)
        if self.report is not None:
            yield from _of_report(self.report)
        if self.tested is not None:
            statistic, threshold = self.tested.statistic, self.tested.threshold
            yield _gauge("gate_statistic", "Evidence that the last tested step hurts the probe set.", statistic)
            yield _gauge("gate_threshold", "Threshold on weir_gate_statistic.", threshold)
        if self.levels is not None:
            yield from _of_levels(self.levels())


def _of_report(report: StepReport) -> Iterator[Metric]:
    yield _gauge("train_loss", "Mean loss of the admitted samples of the last step, nats.", report.loss)
    yield _gauge("batch_discrepancy", "Mean memorization discrepancy of the last step, nats.", report.step_discrepancy)
    yield _gauge(
        "discrepancy_threshold", "Threshold on weir_batch_discrepancy, nats.", report.step_discrepancy_threshold
    )
    yield _gauge("step_score", "Evidence of the last step's samples together.", report.step_score)
    yield _gauge("step_score_threshold", "Threshold on weir_step_score.", report.step_threshold)
    yield _gauge("snapshot_lag_steps", "Updates between the snapshot and the current model.", report.lag)


def _of_levels(levels: Levels) -> Iterator[Metric]:
    yield from _of_status(levels.status, levels.now)
    yield _gauge("inbox_batches", "Batches that wait for the learner.", levels.inbox_batches)
    yield _gauge("inbox_oldest_age_seconds", "Age of the oldest of them.", _age(levels.now, levels.inbox_oldest_at, 0))
    yield _gauge("quarantine_samples", "Samples that wait for review.", levels.quarantine_samples)
    held = _age(levels.now, levels.quarantine_oldest_at, 0)
    yield _gauge("quarantine_oldest_age_seconds", "Age of the oldest of them.", held)
    yield _gauge("dead_letters", "Deliveries that could not be processed, not sent anew.", levels.dead_letters)
    yield _gauge("durability_relaxed", "Whether a crash may lose what was taken.", levels.durability_relaxed)
    yield _gauge("checkpoint_timestamp_seconds", "When the newest checkpoint was made.", levels.checkpoint_at)
    yield _staleness(levels.staleness)
    yield _gauge("device_memory_bytes", "Memory that tensors take on the accelerator.", levels.device_memory_bytes)
    yield from _of_producers(levels.status.producers, levels.producers)


def _of_status(status: LearnerStatus, now: float) -> Iterator[Metric]:
    yield _gauge("learner_up", "Whether the learner runs.", status.alive)
    waits = status.waits_for is not None
    yield _gauge("learner_waiting", "Whether something, such as a full disk, keeps it from going on.", waits)
    yield _step(status.step)
    yield _gauge("guard_armed", "Whether the guard acts on its evidence.", status.armed)
    yield _gauge("sample_score_threshold", "Threshold on a sample's score.", status.sample_threshold)
    progressive = "Accuracy of predictions made before learning each sample."
    yield _gauge("progressive_accuracy_ratio", progressive, status.progressive_accuracy)
    yield _gauge("probe_accuracy_ratio", "Accuracy on the probe set.", status.probe_accuracy)
    created = status.probe.created_at if status.probe else None
    yield _gauge("probe_age_seconds", "Age of the probe set.", _age(now, created))
    yield _gauge("probe_stale", "Whether the probe set seems to describe an older world.", status.probe_stale)
    yield _gauge("drift_active", "Whether producers changed together at the last step.", status.drift)
    yield _gauge("breaker_open", "Whether the guard holds too much to go on.", status.breaker_open)
    yield _gauge("vaccine_age_steps", "Steps since the guard learned what poison looks like.", status.vaccine_age)
    yield _standings(status.producers)
    yield CounterMetricFamily("weir_rollbacks", "Rollbacks of the model.", value=status.rollbacks)


def _step(step: int | None) -> Metric:
    return _gauge("model_step", "Step of the current model; of a replica, of the one that it answers with.", step)


def _staleness(seconds: float | None) -> Metric:
    meaning = "Time since the model that answers was last known to be the learner's newest."
    return _gauge("model_staleness_seconds", meaning, seconds)


def _standings(reports: Collection[ProducerReport]) -> Metric:
    family = GaugeMetricFamily("weir_producers", "Producers by standing.", labels=["standing"])
    counts = PyCounter(report.standing for report in reports)
    for standing in Standing:
        family.add_metric([standing], counts[standing])
    return family


def _of_producers(reports: Collection[ProducerReport], names: Collection[str]) -> Iterator[Metric]:
    """What is on record of each producer that has a label, and of the others together."""
    labels = frozenset(sorted(names)[:MAX_PRODUCERS])
    groups: dict[str, list[ProducerReport]] = {}
    for report in reports:
        groups.setdefault(report.producer if report.producer in labels else OTHER, []).append(report)
    seen = {label: sum(report.seen for report in group) for label, group in groups.items()}
    held = {label: sum(report.held for report in group) / seen[label] for label, group in groups.items() if seen[label]}
    evidence = {label: _worst(map(_evidence, group)) for label, group in groups.items()}
    standing = {label: _worst(_STANDINGS.index(report.standing) for report in group) for label, group in groups.items()}
    yield _by_producer("held_ratio", "Held share of a producer's samples.", held)
    yield _by_producer("seen_samples", "Samples of a producer that its record counts.", seen)
    yield _by_producer(
        "evidence_ratio", "Evidence against a producer's samples together, over its threshold.", evidence
    )
    yield _by_producer("standing", "Standing of a producer: 0 good, 1 watched, 2 suspended.", standing)


def _by_producer(name: str, help: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(f"weir_producer_{name}", help, labels=["producer"])
    for label, value in values.items():
        if value is not None:
            family.add_metric([label], value)
    return family


def _evidence(report: ProducerReport) -> float | None:
    """The larger of a producer's two scores, each over its threshold."""
    pairs = ((report.score, report.threshold), (report.sequential_score, report.sequential_threshold))
    return _worst(score / bound for score, bound in pairs if score is not None and bound)


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _gauge(name: str, help: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"weir_{name}", help, value=value)


def _age(now: float, then: float | None, nothing: float | None = None) -> float | None:
    return nothing if then is None else max(0.0, now - then)
