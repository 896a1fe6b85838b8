"""What a prediction takes while nothing is learned, and while the learner is busy with a log that was filled before.

No producer sends meanwhile: service and client have the machine to themselves. The service is started anew for every
round, idle and busy in turn; as one process, and as a replica beside a learner.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from weir import codec, config, folder
from weir.bench import redis_server, weir_server
from weir.bench.load import Load, drive, request
from weir.bench.subjects import armed, samples
from weir.bench.traffic import hardware, versions
from weir.core import EngineConfig
from weir.errors import InvalidSetting
from weir.stores.base import EntryKind
from weir.trainer import initialise
from weir.types import ServiceRole

PATH = "/v1/predict"
WARMUP_SECONDS = 0.3  # of predictions that are not counted


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: ``rounds`` times, ``seconds`` of predictions of each size, idle and busy, by each role.

    ``waiting`` batches of 100 samples keep the learner busy.
    """

    roles: tuple[ServiceRole, ...] = ("all", "api")
    sizes: tuple[int, ...] = (1, 10, 100)
    shape: tuple[int, ...] = (64,)
    connections: tuple[int, ...] = (1, 4)
    rounds: int = 3
    seconds: float = 1.0
    waiting: int = 2000


def measure(plan: Plan, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Run the plan; JSON-ready rows, and in words what was left out.

    Raises InvalidSetting when the learner had learned it all before the end.
    """
    lacks = redis_server.missing()
    roles = [role for role in plan.roles if role == "all" or not lacks]
    found: dict[tuple[ServiceRole, int, int, bool], list[Load]] = {}
    starts = 0
    for _ in range(plan.rounds):
        for role in roles:
            for busy in (False, True):
                for size, connections, load in _round(plan, role, busy=busy):
                    found.setdefault((role, size, connections, busy), []).append(load)
                starts += 1
                progress(starts)
    kinds = [(role, size, connections) for role in roles for size in plan.sizes for connections in plan.connections]
    return {
        "benchmark": "predict",
        "plan": asdict(plan),
        "rows": [_row(*kind, found[*kind, False], found[*kind, True]) for kind in kinds],
        "left_out": [f"role {role}: {lacks}" for role in plan.roles if role not in roles],
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
        "all: one process answers and learns, over SQLite; api: a replica answers beside a learner, over Redis.",
        "",
        "| role | samples | connections | idle: samples/s | p50, ms | p99, ms | learning: samples/s | p50, ms "
        "| p99, ms | p99 ratio | lowest – highest |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        idle, busy = row["idle"], row["busy"]
        lines.append(
            f"| {row['role']} | {row['samples']} | {row['connections']} "
            f"| {idle['samples_per_second']:.0f} | {idle['p50_ms']:.2f} | {idle['p99_ms']:.2f} "
            f"| {busy['samples_per_second']:.0f} | {busy['p50_ms']:.2f} | {busy['p99_ms']:.2f} "
            f"| {row['p99_ratio']:.2f} | {row['lowest']:.2f} – {row['highest']:.2f} |"
        )
    return "\n".join([*lines, *(f"\nleft out: {lacks}" for lacks in result["left_out"])])


def _round(plan: Plan, role: ServiceRole, *, busy: bool) -> list[tuple[int, int, Load]]:
    """One start of the service, and every kind of request at it."""
    found = []
    with _serving(plan, role, waiting=plan.waiting if busy else 0) as address:
        port = urlsplit(address).port
        assert port is not None
        for size in plan.sizes:
            body = codec.encode_x(samples(size, plan.shape, seed=size).x)
            message = request(PATH, body, codec.SAFETENSORS)
            drive(port, [message], connections=1, seconds=min(WARMUP_SECONDS, plan.seconds))
            for connections in plan.connections:
                load = drive(port, [message], connections=connections, seconds=plan.seconds)
                found.append((size, connections, load))
        if busy and _learned(address) >= plan.waiting:
            raise InvalidSetting("--waiting", plan.waiting, "more: all of it was learned before the last prediction")
    return found


@contextmanager
def _serving(plan: Plan, role: ServiceRole, *, waiting: int) -> Iterator[str]:
    """The service over a log in which so many batches wait: the address of who answers."""
    with tempfile.TemporaryDirectory(prefix="weir-predict-") as place, ExitStack() as stack:
        learner = {"data": Path(place) / "data", "log_max_batches": plan.waiting + 1}
        if role == "all":
            _prepare(learner, plan, waiting)
            yield stack.enter_context(weir_server.running(learner))
            return
        over = {"redis_url": f"unix://{stack.enter_context(redis_server.running(Path(place)))}"}
        _prepare(learner | over, plan, waiting)
        stack.enter_context(weir_server.running({**learner, **over, "role": "learner"}))
        yield stack.enter_context(weir_server.running({**over, "role": "api"}))


def _prepare(settings: Mapping[str, Any], plan: Plan, waiting: int) -> None:
    """A data folder with a model in it, and batches of random samples in its log."""
    with folder.stores(config.load(**settings)) as stores:
        initialise(stores, armed(plan.shape, EngineConfig()), at=time.time())
        for number in range(waiting):
            payload = codec.encode(samples(100, plan.shape, seed=number))
            stores.log.append(EntryKind.BATCH, "waiting", payload, samples=100)


def _learned(address: str) -> int:
    """The last log position that is learned: each batch has one."""
    answer = httpx.get(f"{address}/v1/model", trust_env=False, timeout=60.0)
    return int(answer.raise_for_status().json()["position"])


def _row(role: ServiceRole, size: int, connections: int, idle: list[Load], busy: list[Load]) -> dict[str, Any]:
    ratios = [b.quantile(0.99) / a.quantile(0.99) for a, b in zip(idle, busy, strict=True)]
    return {
        "role": role,
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
