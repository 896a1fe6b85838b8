"""What taking a batch costs: Weir against a service written by hand, a bare server, a bare socket and a bare disk.

Every server is a process of its own, all on one core where there are two, and the client is on another; they take
turns, so that a slow moment of the machine meets all of them. Nothing is learned meanwhile but where it says so.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import torch

from weir import codec
from weir.bench.load import Load, cpu_seconds, drive, request
from weir.bench.subjects import PATH, Running, Subject, running, samples
from weir.bench.traffic import hardware, versions
from weir.errors import InvalidSetting
from weir.types import Batch, InputSpec

IMAGE, ROW = (3, 32, 32), (64,)
_STREAM, _FRESH = 2_000_000, 4_000  # seed of the first batch that is learned, and how many there are
_IN_MEMORY = ("tmpfs", "ramfs", "overlay")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: ``rounds`` times, ``seconds`` of load on every server, over so many ``connections``."""

    batch: int = 100
    connections: int = 4
    single_connections: int = 32
    rounds: int = 3
    seconds: float = 1.2
    place: str = tempfile.gettempdir()


@dataclass(frozen=True, slots=True)
class Case:
    """One row: a server, what it is sent, and the rows that its ratios are to.

    Without a server it is the disk: the bodies in a file, with a sync for each group.
    """

    what: str
    subject: Subject | None
    messages: tuple[bytes, ...]
    samples: int
    connections: int
    against: tuple[str, ...] = ()


@dataclass(slots=True)
class Found:
    """What the rounds of one case gave: their rates, all latencies together, and the server's CPU seconds."""

    per_second: list[float] = field(default_factory=list)
    load: Load = field(default_factory=Load)
    cpu: float = 0.0

    def add(self, load: Load, cpu: float) -> None:
        """One more round."""
        self.per_second.append(load.per_second)
        self.load.latencies += load.latencies
        self.load.statuses.update(load.statuses)
        self.cpu += cpu


def measure(plan: Plan, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Run the plan; JSON-ready rows. Raises InvalidSetting for a place that is no disk."""
    disk = file_system(Path(plan.place))
    chosen = cases(plan)
    found = {case.what: Found() for case in chosen}
    with ExitStack() as stack:
        servers = {
            subject: stack.enter_context(_placed(subject, plan))
            for subject in dict.fromkeys(case.subject for case in chosen)
            if subject is not None
        }
        with _alone():
            for number in range(plan.rounds + 1):  # the first warms up
                for case in chosen:
                    seconds = plan.seconds if number else min(0.5, plan.seconds)
                    load, cpu = _once(case, servers, plan, seconds, turn=number)
                    if number:
                        found[case.what].add(load, cpu)
                progress(number)
    return {
        "benchmark": "ingest",
        "plan": asdict(plan),
        "rows": [_row(case, found) for case in chosen] + _parsers(plan),
        "hardware": hardware("cpu") | {"disk": disk, "cores": os.cpu_count()},
        "versions": versions("fastapi", "starlette", "uvicorn", "pydantic"),
    }


def cases(plan: Plan) -> list[Case]:
    """All rows, in the order of the table."""
    core = 0 if len(os.sched_getaffinity(0)) > 1 else None
    images, row = samples(plan.batch, IMAGE, seed=1), samples(1, ROW, seed=1)
    flat = {"x": images.x.flatten(1).tolist(), "y": images.y.tolist()}
    binary = request(PATH, codec.encode(images), codec.SAFETENSORS)
    numbers = request(PATH, json.dumps(flat, separators=(",", ":")).encode(), codec.JSON)
    scaled = request(PATH, _json(images), codec.JSON)
    single, single_json = request(PATH, codec.encode(row), codec.SAFETENSORS), request(PATH, _json(row), codec.JSON)
    # Each another one: a batch that is learned over and over is memorized, and held for that.
    fresh = (codec.encode(samples(plan.batch, ROW, seed=_STREAM + number)) for number in range(_FRESH))
    waited = tuple(request(f"{PATH}?wait=30", body, codec.SAFETENSORS) for body in fresh)
    bare = {name: Subject(name=name, core=core) for name in ("socket", "starlette", "writing", "fastapi")}
    durable = Subject(name="weir", shape=IMAGE, core=core)
    relaxed = Subject(name="weir", shape=IMAGE, core=core, relaxed=True)
    small = Subject(name="weir", core=core)
    learning = Subject(name="weir", core=core, learn=True)

    def many(what: str, subject: Subject | None, message: bytes, *against: str) -> Case:
        return Case(what, subject, (message,), plan.batch, plan.connections, against)

    def one(what: str, subject: Subject, message: bytes, *against: str) -> Case:
        return Case(what, subject, (message,), 1, plan.single_connections, against)

    return [
        Case("socket", bare["socket"], (binary,), plan.batch, 1),
        many("starlette", bare["starlette"], binary),
        many("starlette, writing", bare["writing"], binary, "starlette"),
        many("fastapi, JSON", bare["fastapi"], numbers),
        many("weir, relaxed", relaxed, binary, "starlette", "starlette, writing", "fastapi, JSON"),
        many("disk", None, binary),
        many("weir", durable, binary, "disk"),
        many("weir, relaxed, JSON", relaxed, scaled, "fastapi, JSON"),
        one("starlette, 1 sample", bare["starlette"], single),
        one("weir, 1 sample", small, single, "starlette, 1 sample"),
        one("weir, 1 sample, JSON", small, single_json, "starlette, 1 sample"),
        Case("weir, 1 sample, 1 connection", small, (single,), 1, 1),
        Case("weir, learning, ?wait=", learning, waited, plan.batch, 1),
    ]


def file_system(place: Path) -> str:
    """The file system that a folder lies on; raises InvalidSetting for one that keeps its files in memory."""
    asked = ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", str(place)]
    kind, _, source = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip().partition(" ")
    if kind in _IN_MEMORY:
        raise InvalidSetting("--place", f"{place} ({kind})", "a folder on a disk: there a sync costs what it costs")
    return f"{kind} on {source.strip()}"


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown tables."""
    plan, machine = result["plan"], result["hardware"]
    servers = [row for row in result["rows"] if "samples_per_second" in row]
    parsers = [row for row in result["rows"] if "milliseconds" in row]
    return "\n".join(
        [
            f"batches of {plan['batch']} uint8 samples [3, 32, 32], single ones of [64]; {plan['rounds']} rounds of "
            f"{plan['seconds']:g} s; {machine['device']}, {machine['cores']} cores, {machine['disk']}",
            "",
            "socket: takes the bytes and answers; starlette: reads the body; writing: and writes it to a file, without "
            "a sync; fastapi, JSON: lists of numbers by pydantic into tensors; disk: the bodies in a file, with a sync "
            "for as many as there are connections.",
            "",
            "| what | connections | samples/s | lowest – highest | MB/s | p50, ms | p99, ms | CPU s/million | ratio |",
            "|---|--:|--:|--:|--:|--:|--:|--:|---|",
            *map(_line, servers),
            "",
            "| JSON of a batch | ms | to the fastest parser |",
            "|---|--:|--:|",
            *(f"| {row['what']} | {row['milliseconds']:.1f} | {row['ratio']:.2f} |" for row in parsers),
        ]
    )


def _line(row: Mapping[str, Any]) -> str:
    ratios = ", ".join(f"{ratio:.2f} × {name}" for name, ratio in row["ratios"].items())
    return (
        f"| {row['what']} | {row['connections']} | {row['samples_per_second']:.0f} | {row['lowest']:.0f} – "
        f"{row['highest']:.0f} | {row['mb_per_second']:.1f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} "
        f"| {row['cpu_seconds_per_million']:.1f} | {ratios or '-'} |"
    )


def _row(case: Case, found: Mapping[str, Found]) -> dict[str, Any]:
    mine = found[case.what]
    rates = [rate * case.samples for rate in mine.per_second]
    sent = len(mine.load.latencies)
    return {
        "what": case.what,
        "connections": case.connections,
        "samples_per_second": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "mb_per_second": statistics.median(mine.per_second) * len(case.messages[0]) / 1e6,
        "p50_ms": 1e3 * mine.load.quantile(0.5),
        "p99_ms": 1e3 * mine.load.quantile(0.99),
        "cpu_seconds_per_million": 1e6 * mine.cpu / (sent * case.samples),
        "statuses": dict(mine.load.statuses),
        "ratios": {
            name: statistics.median(rate / other for rate, other in zip(rates, _rates(case, found[name]), strict=True))
            for name in case.against
        },
    }


def _rates(case: Case, other: Found) -> list[float]:
    """Samples a second of a row that this one is held against: it is sent as many in a request."""
    return [rate * case.samples for rate in other.per_second]


def _once(
    case: Case, servers: Mapping[Subject, Running], plan: Plan, seconds: float, *, turn: int
) -> tuple[Load, float]:
    """One round of one case, and the CPU seconds of its server."""
    if case.subject is None:
        began = time.process_time()
        return _synced(Path(plan.place), case, seconds), time.process_time() - began
    server = servers[case.subject]
    before = cpu_seconds(server.process)
    done = turn * len(case.messages) // (plan.rounds + 1)
    load = drive(
        server.port, case.messages[done:] + case.messages[:done], connections=case.connections, seconds=seconds
    )
    return load, cpu_seconds(server.process) - before


def _synced(place: Path, case: Case, seconds: float) -> Load:
    """The bodies in a file, with a sync for as many as can wait for one: all connections'."""
    load, began = Load(), time.perf_counter()
    with tempfile.TemporaryFile(dir=place, buffering=0) as file:
        while (spent := time.perf_counter() - began) < seconds:
            file.write(case.messages[0] * case.connections)
            os.fsync(file.fileno())
            load.latencies += [time.perf_counter() - began - spent] * case.connections
    load.seconds = time.perf_counter() - began
    return load


def _parsers(plan: Plan) -> list[dict[str, Any]]:
    """What decoding the JSON of a batch takes, beside what parsing it takes."""
    images = samples(plan.batch, IMAGE, seed=1)
    body, spec = _json(images), InputSpec(IMAGE, 10, low=0.0, high=1.0)
    parsers: dict[str, Callable[[], object]] = {
        "json.loads": lambda: json.loads(body),
        "orjson.loads": lambda: orjson.loads(body),
        "weir: parsed, checked, a tensor": lambda: codec.decode(codec.JSON, body, spec, max_samples=len(images)),
    }
    spent: dict[str, list[float]] = {name: [] for name in parsers}
    torch.set_num_threads(1)  # as in the service
    for _ in range(5 * plan.rounds):
        for name, parse in parsers.items():
            began = time.perf_counter()
            parse()
            spent[name].append(1e3 * (time.perf_counter() - began))
    medians = {name: statistics.median(times) for name, times in spent.items()}
    fastest = min(medians[name] for name in parsers if not name.startswith("weir"))
    return [{"what": name, "milliseconds": value, "ratio": value / fastest} for name, value in medians.items()]


def _json(batch: Batch) -> bytes:
    """A batch as a producer without Weir's client sends it: numbers from 0 to 1, in flat rows."""
    x = (batch.x.flatten(1).double() / 255).tolist()
    return json.dumps({"x": x, "y": batch.y.tolist()}).encode()


@contextmanager
def _placed(subject: Subject, plan: Plan) -> Iterator[Running]:
    with (
        tempfile.TemporaryDirectory(prefix="weir-ingest-", dir=plan.place) as folder,
        running(replace(subject, folder=folder)) as server,
    ):
        yield server


@contextmanager
def _alone() -> Iterator[None]:
    """Keep this process off the servers' core, if there is another one."""
    before = os.sched_getaffinity(0)
    if len(before) > 1:
        os.sched_setaffinity(0, before - {0})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
