"""Does the service keep up, would it survive a crash, and what does it cost?"""

from __future__ import annotations

from deploy.grafana.boards.common import (
    BLUE,
    BYTES,
    COUNT,
    GREEN,
    HERE,
    NATS,
    NUMBER,
    ORANGE,
    PURPLE,
    RATIO,
    RED,
    SECONDS,
    Panel,
    Query,
    Text,
    board,
    lines,
    number,
    right,
    stacked,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard

OUTCOMES = {
    "taken": GREEN,
    "invalid": BLUE,
    "denied": PURPLE,
    "conflict": "light-blue",
    "over_quota": "yellow",
    "busy": ORANGE,
    "failed": RED,
}


def make() -> Dashboard:
    """The board for whoever keeps it running."""
    return board(
        "weir-operations",
        "Does the service keep up, would it survive a crash, and what does it cost?",
        ("Now", _now()),
        ("Traffic", [_deliveries(), _inbox(), _ages(), _quarantine(), _staleness()]),
        ("Work", [_stages(), _slowest(), _busy(), _steps()]),
        ("Process", [_memory(), _cpu(), _files(), _device()]),
    )


def _now() -> list[Panel]:
    return [
        number(
            Text("Scraped", "Whether Prometheus reaches the service.", "no target"),
            Query(f'min(up{{job="weir", {HERE}}})'),
            unit=NUMBER,
            states={"0": ("DOWN", RED), "1": ("up", GREEN)},
        ),
        number(
            Text("Learner", "Whether something outside, such as a full disk, keeps it from going on.", "no service"),
            Query(f"max(weir_learner_waiting{{{HERE}}})"),
            unit=NUMBER,
            states={"0": ("goes on", GREEN), "1": ("WAITS", RED)},
        ),
        number(
            Text("Durability", "Relaxed: a crash of the store's machine may lose what was taken.", "no service"),
            Query(f"max(weir_durability_relaxed{{{HERE}}})"),
            unit=NUMBER,
            states={"0": ("full", GREEN), "1": ("relaxed", ORANGE)},
        ),
        number(
            Text("Dead letters", "Batches that could not be processed: weir dead-letters list.", "no service"),
            Query(f"sum(weir_dead_letters{{{HERE}}})"),
            unit=COUNT,
            steps=((None, GREEN), (1.0, ORANGE)),
        ),
        number(
            Text("Newest checkpoint", "How old it is: a restart learns what came since again.", "none yet"),
            Query(f"time() - max(weir_checkpoint_timestamp_seconds{{{HERE}}})"),
            unit=SECONDS,
            steps=((None, GREEN), (86400.0, ORANGE)),
        ),
        number(
            Text("Step", "Steps in the present model.", "no model"),
            Query(f"max(weir_model_step{{{HERE}}})"),
            unit=COUNT,
        ),
    ]


def _deliveries() -> Panel:
    said = Text(
        "Deliveries by outcome",
        "Deliveries a second: taken; invalid, denied and conflict are the sender's; over_quota: it has too much "
        "waiting or held; busy: the log is full; failed: a fault of the service.",
        "No deliveries yet.",
    )
    expr = f"sum by (outcome) (rate(weir_batches_total{{{HERE}}}[$__rate_interval]))"
    return stacked(said, Query(expr, "{{outcome}}"), unit="suffix:/s", colours=OUTCOMES)


def _inbox() -> Panel:
    said = Text("Batches that wait", "Batches in the log that the learner has not come to.", "No service.")
    return lines(said, Query(f"weir_inbox_batches{{{HERE}}}", "waiting"), unit=COUNT, colours={"waiting": BLUE})


def _ages() -> Panel:
    said = Text(
        "How long the oldest waits",
        "Batches for the learner. Growing: more is sent than is learned.",
        "No service.",
    )
    return lines(
        said,
        Query(f"weir_inbox_oldest_age_seconds{{{HERE}}}", "oldest batch"),
        unit=SECONDS,
        colours={"oldest batch": BLUE},
    )


def _quarantine() -> Panel:
    said = Text("Quarantine", "Held samples that nobody has decided on.", "No service.")
    return lines(said, Query(f"weir_quarantine_samples{{{HERE}}}", "held"), unit=COUNT, colours={"held": ORANGE})


def _staleness() -> Panel:
    said = Text(
        "How stale predictions are",
        "Time since the model that answers was last known to be the learner's newest: 0 in one process, about a second "
        "of a replica. Growing: the learner is gone, or its models are refused.",
        "No process that predicts.",
    )
    return lines(said, Query(f"weir_model_staleness_seconds{{{HERE}}}", "{{instance}}"), unit=SECONDS)


def _stages() -> Panel:
    said = Text(
        "Mean time of a step, by stage",
        "Where the time of a step goes. The sum is what a step takes.",
        "No steps in this time.",
    )
    sums = f"sum by (stage) (rate(weir_stage_duration_seconds_sum{{{HERE}}}[$__rate_interval]))"
    steps = f"scalar(sum(rate(weir_steps_total{{{HERE}}}[$__rate_interval])))"
    return stacked(said, Query(f"{sums} / {steps}", "{{stage}}"), unit=SECONDS)


def _slowest() -> Panel:
    said = Text(
        "Slow stages",
        "The time that one in twenty steps exceeds, by stage (from a histogram, so roughly).",
        "No steps in this time.",
    )
    buckets = f"sum by (le, stage) (rate(weir_stage_duration_seconds_bucket{{{HERE}}}[$__rate_interval]))"
    return lines(said, Query(f"histogram_quantile(0.95, {buckets})", "{{stage}}"), unit=SECONDS)


def _busy() -> Panel:
    said = Text(
        "How busy the learner is",
        "Share of the time that it spends on steps. Near 100 % it does not keep up for long.",
        "No steps in this time.",
    )
    expr = f"sum(rate(weir_stage_duration_seconds_sum{{{HERE}}}[$__rate_interval]))"
    return lines(said, Query(expr, "busy"), unit=RATIO, colours={"busy": BLUE})


def _steps() -> Panel:
    said = Text("Steps", "Steps a second, and the loss of what they learned on its own scale.", "No steps yet.")
    rate = f"sum(rate(weir_steps_total{{{HERE}}}[$__rate_interval]))"
    panel = lines(said, Query(rate, "steps"), Query(f"weir_train_loss{{{HERE}}}", "loss"), unit="suffix:/s")
    return panel.override_by_name("loss", right(NATS))


def _memory() -> Panel:
    said = Text("Memory", "Memory of the process that is in the machine's RAM.", "Not told on this system.")
    return lines(said, Query(f'process_resident_memory_bytes{{job="weir", {HERE}}}', "resident"), unit=BYTES)


def _cpu() -> Panel:
    said = Text("CPU", "CPU seconds a second: 1 is one core in full use.", "Not told on this system.")
    expr = f'rate(process_cpu_seconds_total{{job="weir", {HERE}}}[$__rate_interval])'
    return lines(said, Query(expr, "cores"), unit=NUMBER)


def _files() -> Panel:
    said = Text("Open files", "Open files and sockets of the process.", "Not told on this system.")
    return lines(said, Query(f'process_open_fds{{job="weir", {HERE}}}', "open"), unit=COUNT)


def _device() -> Panel:
    said = Text("GPU memory", "What tensors take on the GPU.", "The model lives on the CPU.")
    return lines(said, Query(f"weir_device_memory_bytes{{{HERE}}}", "allocated"), unit=BYTES)
