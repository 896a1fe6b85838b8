"""Is it learning, is it safe, and what is there to do now?"""

from __future__ import annotations

from deploy.grafana.boards.common import (
    BLUE,
    COUNT,
    GREEN,
    HERE,
    NUMBER,
    ORANGE,
    RATIO,
    RED,
    SEVERITIES,
    Panel,
    Query,
    Text,
    bars,
    board,
    coloured,
    grid,
    lines,
    linked,
    number,
    samples_by_verdict,
    words,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard

ADVICE = """
1. **Alerts on the left?** The *Runbook* says for each what it means, how to look and what to do.
2. **No accuracy lost?** Then there is no hurry: what is held is neither learned nor lost. Review it:
   `weir quarantine list`
3. **Accuracy falls?** Go back first, find out later: `weir checkpoints list`, `weir rollback ID`
4. **Who is it?** See *Producers*; then `weir keys revoke ID`, and learn again without them:
   `weir replay --from ID --without-producer NAME`
"""


def make() -> Dashboard:
    """The board to open first."""
    return board(
        "weir-overview",
        "Is it learning, is it safe, and what is there to do now?",
        ("Now", [*_now(), _alerts(), words("What do I do now?", ADVICE, width=10, height=7)]),
        ("Is it learning?", [_accuracy(), samples_by_verdict()]),
        ("Is it safe?", [_suspected(), _undone()]),
    )


def _now() -> list[Panel]:
    up = {"0": ("stopped", RED), "1": ("learning", GREEN)}
    armed = {"0": ("NOT ARMED", RED), "1": ("armed", GREEN)}
    breaker = {"0": ("closed", GREEN), "1": ("OPEN", RED)}
    alerts = 'count(ALERTS{alertstate="firing", severity=~"critical|warning"}) or vector(0)'
    held = f"""sum(rate(weir_samples_total{{{HERE}, verdict="quarantine"}}[10m]))
/ sum(rate(weir_samples_total{{{HERE}}}[10m]))"""
    return [
        number(
            Text("Alerts", "Alerts of severity critical or warning that fire now, listed below.", "no rules"),
            Query(alerts),
            unit=COUNT,
            steps=((None, GREEN), (1, ORANGE), (4, RED)),
        ),
        number(
            Text("Learner", "Whether the thread that learns runs.", "no service"),
            Query(f"min(weir_learner_up{{{HERE}}})"),
            unit=NUMBER,
            states=up,
            link="weir-operations",
        ),
        number(
            Text(
                "Guard", "Whether the guard acts on its evidence; if not, samples are learned unguarded.", "no service"
            ),
            Query(f"min(weir_guard_armed{{{HERE}}})"),
            unit=NUMBER,
            states=armed,
            link="weir-guard",
        ),
        number(
            Text(
                "Breaker", "Open: the guard holds too much of what most producers send; an admin decides.", "no service"
            ),
            Query(f"max(weir_breaker_open{{{HERE}}})"),
            unit=NUMBER,
            states=breaker,
            link="weir-guard",
        ),
        number(
            Text("Held share", "Share of the samples of the last ten minutes that were held.", "no samples"),
            Query(held),
            unit=RATIO,
            steps=((None, GREEN), (0.05, ORANGE), (0.3, RED)),
            link="weir-producers",
        ),
        number(
            Text("Wait for review", "Held samples that nobody has decided on: weir quarantine list.", "no service"),
            Query(f"sum(weir_quarantine_samples{{{HERE}}})"),
            unit=COUNT,
            steps=((None, GREEN), (1, BLUE), (10_000, ORANGE), (50_000, RED)),
            link="weir-producers",
        ),
    ]


def _alerts() -> Panel:
    said = Text(
        "Alerts that fire",
        "What somebody should look at, worst first. A click on a name leads to the runbook.",
        "Nothing fires: there is nothing to do.",
    )
    expr = 'sum by (alertname, severity, instance) (ALERTS{alertstate="firing"})'
    panel = grid(said, Query(expr, "Value"), width=14, height=7, hidden=("Value",))
    panel.override_by_name(*coloured("severity", {name: (name, SEVERITIES[name]) for name in SEVERITIES}))
    return panel.override_by_name(*linked("alertname", "weir-runbook", "Runbook"))


def _accuracy() -> Panel:
    said = Text(
        "Accuracy",
        "Before learning: of predictions made before each sample was learned, on the stream itself. Probe set: on "
        "trusted samples that nothing is decided with. The second falling is harm; the first alone may be drift.",
        "No model yet, or no probe set.",
    )
    return lines(
        said,
        Query(f"weir_progressive_accuracy_ratio{{{HERE}}}", "before learning"),
        Query(f"weir_probe_accuracy_ratio{{{HERE}}}", "probe set"),
        unit=RATIO,
        colours={"before learning": BLUE, "probe set": GREEN},
        bottom=None,
        top=1,
    )


def _suspected() -> Panel:
    said = Text(
        "Poison suspected, by reason",
        "Share of samples that are suspected, by reason. One by one (sample), at most the configured share of clean "
        "samples is; more of them, or any other reason, is a sign of an attack.",
        "No samples yet.",
    )
    total = f"scalar(sum(rate(weir_samples_total{{{HERE}}}[$__rate_interval])))"
    expr = f"sum by (reason) (rate(weir_poison_suspected_total{{{HERE}}}[$__rate_interval])) / {total}"
    return lines(said, Query(expr, "{{reason}}"), Query(f"weir_sample_rate_ratio{{{HERE}}}", "configured"), unit=RATIO)


def _undone() -> Panel:
    said = Text(
        "Alarms, vetoes and rollbacks",
        "Alarms: many samples were suspect together. Vetoes: steps that the gate undid. Declines: steps that left "
        "the model worse than its best. Rollbacks: an older model was put back.",
        "No service.",
    )
    names = {"alarms": ORANGE, "vetoes": "purple", "declines": "yellow", "rollbacks": RED}
    shown = [Query(f"sum(increase(weir_{name}_total{{{HERE}}}[$__rate_interval]))", name) for name in names]
    return bars(said, *shown, height=8, colours=names)
