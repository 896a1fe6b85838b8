from __future__ import annotations

import dataclasses

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from weir.metrics import MAX_PRODUCERS, DoorMetrics, Levels, Metrics, ModelLevels, Outcome
from weir.types import (
    GateReport,
    GuardMode,
    LearnerStatus,
    ProbeInfo,
    ProducerReport,
    Reason,
    SampleVerdict,
    Standing,
    StepReport,
    Verdict,
)

ACCEPTED = SampleVerdict(Verdict.ACCEPT, Reason.CLEAN, 1.0, 2.0, discrepancy=0.02, pvalue=0.4)
HELD = SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE, 3.0, 2.0, discrepancy=5.0, pvalue=0.001)
NOTED = SampleVerdict(Verdict.ACCEPT, Reason.STEP, 3.0, 2.0, discrepancy=0.5, pvalue=0.01)
UNJUDGED = SampleVerdict(Verdict.ACCEPT, Reason.UNARMED)
REPORT = StepReport(
    step=7,
    updates=6,
    mode=GuardMode.WEIR,
    armed=True,
    verdicts=(ACCEPTED, ACCEPTED, HELD, NOTED, UNJUDGED),
    producers=("a",) * 5,
    updated=True,
    loss=0.25,
    step_discrepancy=0.3,
    step_discrepancy_threshold=0.4,
    step_score=1.5,
    step_threshold=3.5,
    lag=12,
    seconds={"evidence": 0.02, "step": 0.005},
)
STATUS = LearnerStatus(
    alive=True,
    failure=None,
    waits_for=None,
    step=7,
    updates=6,
    position=3,
    mode=GuardMode.WEIR,
    armed=True,
    unarmed_because=None,
    device="cpu",
    parameters=10,
    progressive_accuracy=0.75,
    probe_accuracy=0.8,
    probe=ProbeInfo("v1", 100, (50, 50), created_at=400.0, source="split"),
    probe_stale=True,
    drift=True,
    breaker_open=False,
    vaccine_age=40,
    unvaccinated_because=None,
    sample_threshold=2.0,
    vetoes=1,
    rollbacks=2,
    checkpoint="c1",
)
LEVELS = Levels(
    status=STATUS,
    inbox_batches=4,
    inbox_oldest_at=990.0,
    quarantine_samples=9,
    quarantine_oldest_at=100.0,
    checkpoint_at=950.0,
    dead_letters=3,
    durability_relaxed=True,
    producers=("a", "b"),
    now=1000.0,
    staleness=0.5,
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), sample_rate=0.01)


def value(metrics: DoorMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def reporting(*reports: ProducerReport, names: tuple[str, ...]) -> Levels:
    return dataclasses.replace(LEVELS, status=dataclasses.replace(STATUS, producers=reports), producers=names)


def producer(
    name: str,
    seen: int,
    held: int,
    *,
    standing: Standing = Standing.GOOD,
    score: float | None = None,
    sequential: float | None = None,
) -> ProducerReport:
    return ProducerReport(
        producer=name,
        seen=seen,
        held=held,
        corrected=0,
        score=score,
        threshold=None if score is None else 4.0,
        sequential_score=sequential,
        sequential_threshold=None if sequential is None else 10.0,
        suspect_share=None,
        standing=standing,
    )


def test_samples_are_counted_by_verdict_and_suspicions_by_reason(metrics: Metrics) -> None:
    metrics.observe(REPORT)
    metrics.observe(REPORT)
    assert value(metrics, "weir_steps_total") == 2
    assert value(metrics, "weir_samples_total", verdict="accept") == 8
    assert value(metrics, "weir_samples_total", verdict="quarantine") == 2
    assert value(metrics, "weir_samples_total", verdict="correct") == 0
    assert value(metrics, "weir_poison_suspected_total", reason="sample") == 2
    assert value(metrics, "weir_poison_suspected_total", reason="step") == 2
    assert value(metrics, "weir_poison_suspected_total", reason="unarmed") is None


def test_drift_and_decline_are_counted_apart_from_suspicion(metrics: Metrics) -> None:
    gate = GateReport(harm=0.1, statistic=1.0, threshold=3.0, vetoed=False, declined=True)
    metrics.observe(dataclasses.replace(REPORT, drift=True, gate=gate))
    metrics.observe(REPORT)
    assert value(metrics, "weir_drift_suspected_total") == 1
    assert value(metrics, "weir_declines_total") == 1
    assert value(metrics, "weir_vetoes_total") == 0
    assert value(metrics, "weir_poison_suspected_total", reason="sample") == 2


def test_alarms_are_counted_by_reason_from_zero_on(metrics: Metrics) -> None:
    assert value(metrics, "weir_alarms_total", reason="producer") == 0
    metrics.observe(dataclasses.replace(REPORT, alarms=(Reason.STEP, Reason.PRODUCER)))
    metrics.observe(dataclasses.replace(REPORT, alarms=(Reason.DISCREPANCY,)))
    metrics.observe(REPORT)
    found = {
        reason: value(metrics, "weir_alarms_total", reason=reason) for reason in ("step", "producer", "discrepancy")
    }
    assert found == {"step": 1, "producer": 1, "discrepancy": 1}


def test_standings_are_counted_and_none_is_left_out(metrics: Metrics) -> None:
    reports = [producer("a", 9, 9, standing=Standing.SUSPENDED), producer("b", 9, 0), producer("c", 9, 1)]
    metrics.watch(lambda: reporting(*reports, names=()))
    found = {standing: value(metrics, "weir_producers", standing=standing) for standing in Standing}
    assert found == {Standing.GOOD: 2, Standing.WATCHED: 0, Standing.SUSPENDED: 1}


def test_evidence_fills_the_histograms_and_missing_evidence_does_not(metrics: Metrics) -> None:
    metrics.observe(REPORT)
    assert value(metrics, "weir_sample_discrepancy_count") == 4
    assert value(metrics, "weir_sample_discrepancy_sum") == pytest.approx(5.54)
    assert value(metrics, "weir_sample_discrepancy_bucket", le="0.03") == 2
    assert value(metrics, "weir_evidence_pvalue_bucket", le="0.01") == 2
    assert value(metrics, "weir_sample_rate_ratio") == 0.01
    assert value(metrics, "weir_stage_duration_seconds_count", stage="evidence") == 1
    assert value(metrics, "weir_stage_duration_seconds_sum", stage="step") == 0.005


def test_the_last_step_sets_the_gauges(metrics: Metrics) -> None:
    metrics.observe(REPORT)
    metrics.observe(dataclasses.replace(REPORT, loss=None, step_discrepancy=0.0))
    assert value(metrics, "weir_train_loss") is None
    assert value(metrics, "weir_batch_discrepancy") == 0.0
    assert value(metrics, "weir_discrepancy_threshold") == 0.4
    assert value(metrics, "weir_step_score") == 1.5
    assert value(metrics, "weir_step_score_threshold") == 3.5
    assert value(metrics, "weir_snapshot_lag_steps") == 12


def test_a_veto_is_counted_and_a_passed_gate_is_not(metrics: Metrics) -> None:
    metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.1, 4.0, 2.0, vetoed=True)))
    metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.0, 0.0, 2.0, vetoed=False)))
    assert value(metrics, "weir_vetoes_total") == 1


def test_a_step_of_which_a_part_was_kept_is_counted_and_one_of_which_none_was_is_not(metrics: Metrics) -> None:
    for vetoed in (False, True):
        metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.1, 1.0, 2.0, vetoed=vetoed, share=0.25)))
    metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.1, 1.0, 2.0)))
    assert value(metrics, "weir_steps_shortened_total") == 1


def test_a_step_kept_without_earlier_momentum_is_counted_and_one_undone_after_all_is_not(metrics: Metrics) -> None:
    for vetoed in (False, True):
        metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.1, 1.0, 2.0, vetoed=vetoed, from_rest=True)))
    metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.1, 1.0, 2.0)))
    assert value(metrics, "weir_steps_from_rest_total") == 1


def test_the_gate_shows_its_evidence_and_none_where_no_step_was_tried(metrics: Metrics) -> None:
    metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.1, 4.0, 2.0, vetoed=True)))
    assert (value(metrics, "weir_gate_statistic"), value(metrics, "weir_gate_threshold")) == (4.0, 2.0)
    metrics.observe(REPORT)
    assert value(metrics, "weir_gate_statistic") is None


def test_memory_of_an_accelerator_is_told_where_there_is_one(metrics: Metrics) -> None:
    metrics.watch(lambda: LEVELS)
    assert value(metrics, "weir_device_memory_bytes") is None
    metrics.watch(lambda: dataclasses.replace(LEVELS, device_memory_bytes=2**30))
    assert value(metrics, "weir_device_memory_bytes") == 2**30


def test_levels_are_read_anew_at_every_scrape(metrics: Metrics) -> None:
    now = 1000.0
    metrics.watch(lambda: dataclasses.replace(LEVELS, now=now))
    expected = {
        "weir_learner_up": 1,
        "weir_model_step": 7,
        "weir_guard_armed": 1,
        "weir_sample_score_threshold": 2.0,
        "weir_progressive_accuracy_ratio": 0.75,
        "weir_probe_accuracy_ratio": 0.8,
        "weir_probe_age_seconds": 600.0,
        "weir_probe_stale": 1,
        "weir_drift_active": 1,
        "weir_breaker_open": 0,
        "weir_vaccine_age_steps": 40,
        "weir_rollbacks_total": 2,
        "weir_inbox_batches": 4,
        "weir_inbox_oldest_age_seconds": 10.0,
        "weir_quarantine_samples": 9,
        "weir_quarantine_oldest_age_seconds": 900.0,
        "weir_checkpoint_timestamp_seconds": 950.0,
        "weir_dead_letters": 3,
        "weir_durability_relaxed": 1,
        "weir_learner_waiting": 0,
    }
    assert {name: value(metrics, name) for name in expected} == expected
    now = 1005.0
    assert value(metrics, "weir_inbox_oldest_age_seconds") == 15.0


def test_what_is_not_known_has_no_sample_and_an_empty_inbox_has_age_zero(metrics: Metrics) -> None:
    unarmed = dataclasses.replace(STATUS, probe=None, probe_accuracy=None, sample_threshold=None, armed=False)
    metrics.watch(lambda: dataclasses.replace(LEVELS, status=unarmed, inbox_oldest_at=None, quarantine_oldest_at=None))
    assert value(metrics, "weir_guard_armed") == 0
    assert value(metrics, "weir_inbox_oldest_age_seconds") == 0
    for name in ("weir_probe_age_seconds", "weir_probe_accuracy_ratio", "weir_sample_score_threshold"):
        assert value(metrics, name) is None


def test_producers_without_a_key_share_one_label(metrics: Metrics) -> None:
    reports = (producer("a", 10, 5), producer("b", 0, 0), producer("x", 10, 1), producer("y", 30, 9))
    metrics.watch(lambda: reporting(*reports, names=("a", "b")))
    assert value(metrics, "weir_producer_held_ratio", producer="a") == 0.5
    assert value(metrics, "weir_producer_held_ratio", producer="b") is None
    assert value(metrics, "weir_producer_held_ratio", producer="other") == 0.25
    assert value(metrics, "weir_producer_held_ratio", producer="x") is None


def test_a_producer_shows_its_worst_evidence_and_its_standing(metrics: Metrics) -> None:
    reports = (
        producer("a", 10, 0, score=2.0, sequential=20.0, standing=Standing.SUSPENDED),
        producer("b", 10, 0),
        producer("x", 10, 0, score=1.0),
        producer("y", 30, 0, score=3.0, standing=Standing.WATCHED),
    )
    metrics.watch(lambda: reporting(*reports, names=("a", "b")))

    def of(name: str) -> dict[str, float | None]:
        return {label: value(metrics, f"weir_producer_{name}", producer=label) for label in ("a", "b", "other")}

    assert of("evidence_ratio") == {"a": 2.0, "b": None, "other": 0.75}
    assert of("standing") == {"a": 2, "b": 0, "other": 1}
    assert of("seen_samples") == {"a": 10, "b": 10, "other": 40}


def test_the_number_of_producer_labels_is_bounded(metrics: Metrics) -> None:
    names = tuple(f"p{index:04}" for index in range(MAX_PRODUCERS * 3))
    metrics.watch(lambda: reporting(*(producer(name, 1, 0) for name in names), names=names))
    body, _ = metrics.render()
    assert body.count(b"weir_producer_held_ratio{") == MAX_PRODUCERS + 1


def test_the_model_that_answers_tells_its_step_and_its_staleness(metrics: Metrics) -> None:
    metrics.watch(lambda: LEVELS)
    assert value(metrics, "weir_model_staleness_seconds") == 0.5
    replica, levels = DoorMetrics(), ModelLevels(None, None)
    replica.watch_model(lambda: levels)
    assert value(replica, "weir_model_step") is None
    levels = ModelLevels(7, 1.5)
    assert (value(replica, "weir_model_step"), value(replica, "weir_model_staleness_seconds")) == (7, 1.5)
    assert value(replica, "weir_steps_total") is None


def test_deliveries_are_counted_by_outcome_from_zero_on(metrics: Metrics) -> None:
    metrics.delivered(Outcome.TAKEN)
    assert value(metrics, "weir_batches_total", outcome="taken") == 1
    assert value(metrics, "weir_batches_total", outcome="busy") == 0


def test_the_exposition_parses_and_carries_its_content_type(metrics: Metrics) -> None:
    metrics.observe(REPORT)
    metrics.watch(lambda: LEVELS)
    body, content_type = metrics.render()
    families = {family.name for family in text_string_to_metric_families(body.decode())}
    assert content_type.startswith("text/plain")
    assert {"weir_samples", "weir_rollbacks", "weir_model_step", "weir_sample_discrepancy"} <= families


def test_two_services_in_one_process_share_nothing() -> None:
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.observe(REPORT)
    assert value(second, "weir_steps_total") == 0
