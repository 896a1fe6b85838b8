"""What the guard sees, what it decides, and how sure it is."""

from __future__ import annotations

from deploy.grafana.boards.common import (
    BLUE,
    COUNT,
    GREEN,
    GREY,
    HERE,
    NATS,
    NUMBER,
    ORANGE,
    PURPLE,
    RATIO,
    RED,
    SECONDS,
    WIDTH,
    Panel,
    Query,
    Text,
    bars,
    board,
    heat_map,
    lines,
    number,
    samples_by_verdict,
    stacked,
    timeline,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard


def make() -> Dashboard:
    """The board for whoever asks why something was held."""
    return board(
        "weir-guard",
        "What the guard sees, what it decides, and how sure it is. Marks: alarms and rollbacks.",
        ("Memorization discrepancy", [_discrepancies(), _mean_discrepancy()]),
        ("Verdicts", [samples_by_verdict(), _reasons()]),
        ("Evidence", [_step_score(), _gate(), _pvalues(), _undone()]),
        ("State", [_states(), *_ages()]),
    )


def _discrepancies() -> Panel:
    said = Text(
        "Discrepancy of samples",
        "How far the model's answer on each sample moved from the trusted past model's. The darker, the more samples. "
        "Clean samples stay together; an attack shows as a second band, or as one that rises as a whole.",
        "No samples yet, or the guard has nothing to compare with.",
    )
    expr = f"sum by (le) (increase(weir_sample_discrepancy_bucket{{{HERE}}}[$__rate_interval]))"
    return heat_map(said, expr, unit=NATS)


def _mean_discrepancy() -> Panel:
    said = Text(
        "Mean discrepancy of a step against its threshold",
        "The mean over the samples of the last step, and the threshold that the probe set gives a step of that size. "
        "Above it the samples of the step are suspect together.",
        "No step yet, or no threshold: the guard is not armed.",
    )
    return lines(
        said,
        Query(f"weir_batch_discrepancy{{{HERE}}}", "mean of the step"),
        Query(f"weir_discrepancy_threshold{{{HERE}}}", "threshold"),
        unit=NATS,
        width=WIDTH,
        height=7,
        colours={"mean of the step": BLUE},
    )


def _reasons() -> Panel:
    said = Text(
        "Suspected samples by reason",
        "Samples a second. sample: its own evidence. step, producer, discrepancy: it was suspect together with others. "
        "veto, rollback: the gate undid its step. non_finite: its loss was no number.",
        "No samples yet.",
    )
    expr = f"sum by (reason) (rate(weir_poison_suspected_total{{{HERE}}}[$__rate_interval]))"
    return stacked(said, Query(expr, "{{reason}}"), unit="suffix:/s")


def _step_score() -> Panel:
    said = Text(
        "Evidence of a step against its threshold",
        "All evidence over the samples of the last step together. Above the threshold the step raises an alarm; on "
        "clean traffic WEIR_GUARD_STEP_RATE of the steps do.",
        "No step yet, or the guard is not armed.",
    )
    return lines(
        said,
        Query(f"weir_step_score{{{HERE}}}", "score of the step"),
        Query(f"weir_step_score_threshold{{{HERE}}}", "threshold"),
        unit=NUMBER,
        colours={"score of the step": BLUE},
        bottom=None,
    )


def _gate() -> Panel:
    said = Text(
        "The gate: does the step hurt?",
        "Evidence that the last tested step makes the model worse on the gate's part of the probe set. Above the "
        "threshold the step is undone, bit for bit. A gap: all of the step was held, so there was nothing to test.",
        "No step was tried yet, or the gate is off.",
    )
    return lines(
        said,
        Query(f"weir_gate_statistic{{{HERE}}}", "statistic"),
        Query(f"weir_gate_threshold{{{HERE}}}", "threshold"),
        unit=NUMBER,
        colours={"statistic": BLUE},
        bottom=None,
    )


def _pvalues() -> Panel:
    said = Text(
        "Samples with a small p-value",
        "How many samples have a p-value of at most 0.01, 0.05 and 0.1 on the probe set. On clean traffic each curve "
        "lies at or under its own number; above it, samples are unlike the probe set: poison, or drift.",
        "No samples yet, or the guard is not armed.",
    )
    total = f"sum(rate(weir_evidence_pvalue_count{{{HERE}}}[$__rate_interval]))"
    shown = [
        Query(
            f'sum(rate(weir_evidence_pvalue_bucket{{{HERE}, le="{level}"}}[$__rate_interval])) / {total}',
            f"p ≤ {level}",
        )
        for level in ("0.01", "0.05", "0.1")
    ]
    return lines(said, *shown, unit=RATIO, colours={"p ≤ 0.01": RED, "p ≤ 0.05": ORANGE, "p ≤ 0.1": BLUE})


def _undone() -> Panel:
    said = Text(
        "Alarms by reason, vetoes and drift",
        "Alarms of a step, a producer, or the published rule; steps that the gate undid, or kept from rest "
        "momentum; steps at which producers changed together, and those of them that it shortened. Vetoes without "
        "alarms hint at a probe set of an older world.",
        "No service.",
    )
    colours = {"veto": PURPLE, "drift": GREY, "shortened": BLUE, "from rest": ORANGE}
    alarms = f"sum by (reason) (increase(weir_alarms_total{{{HERE}}}[$__rate_interval]))"
    drift = f"sum(increase(weir_drift_suspected_total{{{HERE}}}[$__rate_interval]))"
    shortened = f"sum(increase(weir_steps_shortened_total{{{HERE}}}[$__rate_interval]))"
    from_rest = f"sum(increase(weir_steps_from_rest_total{{{HERE}}}[$__rate_interval]))"
    vetoes = f"sum(increase(weir_vetoes_total{{{HERE}}}[$__rate_interval]))"
    return bars(
        said,
        Query(alarms, "alarm: {{reason}}"),
        Query(vetoes, "veto"),
        Query(from_rest, "from rest"),
        Query(drift, "drift"),
        Query(shortened, "shortened"),
        height=8,
        colours=colours,
    )


def _states() -> Panel:
    said = Text(
        "Guard, breaker, drift and probe set",
        "Grey: as it should be. Coloured: the guard is not armed, the breaker is open, producers change together, or "
        "the probe set seems to describe an older world.",
        "No service.",
    )
    return timeline(
        said,
        Query(f"1 - weir_guard_armed{{{HERE}}}", "not armed"),
        Query(f"weir_breaker_open{{{HERE}}}", "breaker open"),
        Query(f"weir_drift_active{{{HERE}}}", "drift suspected"),
        Query(f"weir_probe_stale{{{HERE}}}", "probe set stale"),
        states={"0": ("no", "#ccccdc33"), "1": ("yes", ORANGE)},
        width=8,
    )


def _ages() -> list[Panel]:
    old = ((None, GREEN), (30 * 86400.0, ORANGE), (180 * 86400.0, RED))
    return [
        number(
            Text("Probe set", "How old the trusted samples are. A new set: weir probe import FILE.", "none"),
            Query(f"max(weir_probe_age_seconds{{{HERE}}})"),
            unit=SECONDS,
            steps=old,
            height=6,
        ),
        number(
            Text("Sample threshold", "From this score on a single sample is suspect; it is calibrated anew.", "none"),
            Query(f"max(weir_sample_score_threshold{{{HERE}}})"),
            unit=NUMBER,
            height=6,
        ),
        number(
            Text("Vaccine", "Steps since the guard learned what poison looks like in the present model.", "none"),
            Query(f"max(weir_vaccine_age_steps{{{HERE}}})"),
            unit=COUNT,
            height=6,
        ),
        number(
            Text(
                "Snapshot lag", "Updates between the past model that the guard compares with and the present.", "none"
            ),
            Query(f"max(weir_snapshot_lag_steps{{{HERE}}})"),
            unit=COUNT,
            height=6,
        ),
    ]
