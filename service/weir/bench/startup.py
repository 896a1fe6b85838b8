"""How long the command takes to answer, and the service to be ready."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weir.bench import weir_server
from weir.bench.traffic import hardware, versions


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: every start ``rounds`` times, after ``warmup`` that count for nothing."""

    rounds: int = 4
    warmup: int = 1
    samples: int = 1000


def measure(plan: Plan, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Run the plan; JSON-ready rows. Raises ServiceUnavailable when a start fails."""
    with tempfile.TemporaryDirectory(prefix="weir-startup-") as place:
        data = Path(place) / "data"
        options = ("digits", "--samples", str(plan.samples), "--data", str(data))
        subprocess.run([*weir_server.WEIR, "burnin", *options], check=True, capture_output=True)
        starts: dict[str, Callable[[], float]] = {
            "python, nothing else": lambda: _ended(sys.executable, "-c", "pass"),
            "weir --help": lambda: _ended(*weir_server.WEIR, "--help"),
            "python, import torch": lambda: _ended(sys.executable, "-c", "import torch"),
            "weir serve, until it is ready": lambda: _ready(data),
        }
        found: dict[str, list[float]] = {name: [] for name in starts}
        for number in range(plan.warmup + plan.rounds):
            for name, start in starts.items():
                seconds = start()
                if number >= plan.warmup:
                    found[name].append(seconds)
            progress(number)
    rows = [
        {"what": name, "seconds": statistics.median(times), "lowest": min(times), "highest": max(times)}
        for name, times in found.items()
    ]
    return {
        "benchmark": "startup",
        "plan": asdict(plan),
        "rows": rows,
        "hardware": hardware("cpu") | {"cores": os.cpu_count()},
        "versions": versions("fastapi", "pydantic", "uvicorn", "typer"),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as a Markdown table."""
    machine = result["hardware"]
    lines = [
        f"{result['plan']['rounds']} starts each, in turn; {machine['device']}, {machine['cores']} cores",
        "",
        "| start | s (median) | lowest – highest |",
        "|---|--:|--:|",
    ]
    lines += [
        f"| {row['what']} | {row['seconds']:.2f} | {row['lowest']:.2f} – {row['highest']:.2f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def _ended(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def _ready(data: Path) -> float:
    """Seconds from the start of the process until ``/health/ready`` answers 200."""
    began = time.perf_counter()
    with weir_server.running({"data": data}):
        return time.perf_counter() - began
