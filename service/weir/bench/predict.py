"""What a prediction takes while nothing is learned, and while the learner is busy with a log that was filled before.

No producer sends meanwhile: service and client have the machine to themselves. The service is started anew for every
round, idle and busy in turn.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from weir import codec
from weir.bench.load import Load, drive, request
from weir.bench.subjects import Subject, running, samples
from weir.bench.traffic import hardware, versions
from weir.errors import InvalidSetting

PATH = "/v1/predict"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: ``rounds`` times, ``seconds`` of predictions of each size, idle and busy.

    ``waiting`` batches of 100 samples keep the learner busy.
    """

    sizes: tuple[int, ...] = (1, 10, 100)
    shape: tuple[int, ...] = (64,)
    connections: tuple[int, ...] = (1, 4)
    rounds: int = 3
    seconds: float = 2.0
    waiting: int = 2000


def measure(plan: Plan, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Run the plan; JSON-ready rows. Raises InvalidSetting when the learner had learned it all before the end."""
    found: dict[tuple[int, int, bool], list[Load]] = {}
    for number in range(plan.rounds):
        for busy in (False, True):
            for size, connections, load in _round(plan, busy=busy):
                found.setdefault((size, connections, busy), []).append(load)
            progress(2 * number + busy + 1)
    kinds = [(size, connections) for size in plan.sizes for connections in plan.connections]
    return {
        "benchmark": "predict",
        "plan": asdict(plan),
        "rows": [_row(*kind, found[*kind, False], found[*kind, True]) for kind in kinds],
        "hardware": hardware("cpu") | {"cores": os.cpu_count()},
        "versions": versions("fastapi", "starlette", "uvicorn", "pydantic"),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as a Markdown table."""
    plan, machine = result["plan"], result["hardware"]
    lines = [
        f"predictions of samples {list(plan['shape'])}, {plan['rounds']} rounds of {plan['seconds']:g} s; "
        f"{machine['device']}, {machine['cores']} cores",
        "",
        "| samples | connections | idle: samples/s | p50, ms | p99, ms | learning: samples/s | p50, ms | p99, ms "
        "| p99 ratio | lowest – highest |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        idle, busy = row["idle"], row["busy"]
        lines.append(
            f"| {row['samples']} | {row['connections']} | {idle['samples_per_second']:.0f} | {idle['p50_ms']:.2f} "
            f"| {idle['p99_ms']:.2f} | {busy['samples_per_second']:.0f} | {busy['p50_ms']:.2f} | {busy['p99_ms']:.2f} "
            f"| {row['p99_ratio']:.2f} | {row['lowest']:.2f} – {row['highest']:.2f} |"
        )
    return "\n".join(lines)


def _round(plan: Plan, *, busy: bool) -> list[tuple[int, int, Load]]:
    """One start of the service, and every kind of request at it."""
    found = []
    with tempfile.TemporaryDirectory(prefix="weir-predict-") as folder:
        waiting = plan.waiting if busy else 0
        subject = Subject(name="weir", shape=plan.shape, learn=True, waiting=waiting, folder=folder)
        with running(subject) as server:
            for size in plan.sizes:
                body = codec.encode_x(samples(size, plan.shape, seed=size).x)
                message = request(PATH, body, codec.SAFETENSORS)
                drive(server.port, [message], connections=1, seconds=min(0.5, plan.seconds))
                for connections in plan.connections:
                    load = drive(server.port, [message], connections=connections, seconds=plan.seconds)
                    found.append((size, connections, load))
            if busy and _learned(server.port) >= plan.waiting:
                raise InvalidSetting(
                    "--waiting", plan.waiting, "more: all of it was learned before the last prediction"
                )
    return found


def _learned(port: int) -> int:
    """The last log position that is learned: each batch has one."""
    answer = httpx.get(f"http://127.0.0.1:{port}/v1/model", trust_env=False, timeout=60.0)
    return int(answer.raise_for_status().json()["position"])


def _row(size: int, connections: int, idle: list[Load], busy: list[Load]) -> dict[str, Any]:
    ratios = [b.quantile(0.99) / a.quantile(0.99) for a, b in zip(idle, busy, strict=True)]
    return {
        "samples": size,
        "connections": connections,
        "idle": _figures(size, idle),
        "busy": _figures(size, busy),
        "p99_ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def _figures(size: int, loads: list[Load]) -> dict[str, float]:
    return {
        "samples_per_second": statistics.median(size * load.per_second for load in loads),
        "p50_ms": 1e3 * statistics.median(load.quantile(0.5) for load in loads),
        "p99_ms": 1e3 * statistics.median(load.quantile(0.99) for load in loads),
    }
