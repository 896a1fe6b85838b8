"""The measurements of ``soak`` and ``throughput`` as Markdown: ``python -m tests.faults.table``."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

SOURCE = Path("benchmarks/durability.jsonl")
TARGET = Path("benchmarks/durability.md")

HEAD = """# Durability, measured

Made by `make soak`, `make pressure` and `make throughput` from `benchmarks/durability.jsonl`; what is tested is
`tests/faults/`.

## Faults

The service (`weir serve`, a process) learns under traffic of three producers and an operator who releases, rolls
back, saves, replaces the probe set and changes the mode. It is killed (SIGKILL) at random instants, and before and
after every named point between reading the log and publishing a model. At the end a service that nothing happens to
learns the very same log, and everything is compared: every checkpoint's tensors bit for bit, every verdict, the
quarantine, the counters.
*lost*: acknowledged, and not in the log as it was sent. *doubled*: decided on by two steps, or twice in the log.
*recovery*: from the start of a process to its first acknowledgement, with the other load of the machine. On Redis the
lease of a learner that was killed is taken away instead of waited for; by itself it ends after 15 s.
"""
PRESSURE = """
## Producers at twice the learner's speed

Four producers send at twice the rate that the learner learns at, for as long as it says; the log may hold 400 batches
ahead of it, 150 of one producer. What it refuses (503, 429) the client sends again under the same idempotency key.
Meanwhile predictions of one sample are asked for, twenty a second, as before with nothing to learn; the producers, the
service and the one who predicts share the machine. *memory*: resident, of the service, before and at most.
"""
RATES = """
## What durability costs

Batches appended through the store by threads of one process; medians of alternating measurements. *durable*: SQLite
with `synchronous = FULL`, Redis with `appendfsync always`; *not*: `OFF` and `no`. *group*: how many batches shared one
sync, as counted in SQLite (Redis does not tell). *bare disk*: the same bytes appended to a file with one fsync per
group: of SQLite's size, for Redis of all producers, which is the most that can share one. Where durable is not slower,
it is the threads of one Python process that limit both, not the disk.
"""


def main() -> None:
    """Write the table."""
    lines = [json.loads(line) for line in SOURCE.read_text().splitlines()]
    soaks = [line for line in lines if line["what"] == "soak"]
    rates = [line for line in lines if line["what"] == "throughput"]
    pressures = [line for line in lines if line["what"] == "pressure"]
    parts = [HEAD, *_faults(soaks), PRESSURE, *_pressures(pressures), RATES, *_rates(rates), "", _made_with(), ""]
    TARGET.write_text("\n".join(parts))


def _faults(soaks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| store | runs | faults | at points | acknowledged | lost | doubled | equal | recovery, median | most |"
    yield "|---|--:|--:|--:|--:|--:|--:|---|--:|--:|"
    for store, runs in _grouped(soaks, "store"):
        recovery = [seconds for run in runs for seconds in run["recovery"]]
        cells = [
            store,
            len(runs),
            sum(run["deaths"] for run in runs),
            sum(run["at_points"] for run in runs),
            sum(run["acknowledged"] for run in runs),
            sum(len(run["lost"]) for run in runs),
            sum(len(run["doubled"]) for run in runs),
            f"{sum(run['equal'] for run in runs)} of {len(runs)}",
            f"{statistics.median(recovery):.1f} s" if recovery else "-",
            f"{max(recovery):.1f} s" if recovery else "-",
        ]
        yield _row(cells)


def _pressures(pressures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield (
        "| store | seconds | learned, samples/s | offered | taken | acknowledged batches | lost | doubled | undecided "
        "| memory, MiB | predict p50 idle, loaded | p99 idle, loaded | p99 ratio |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for line in pressures:
        idle, loaded = line["predict_ms"]["idle"], line["predict_ms"]["loaded"]
        yield _row(
            [
                *(line["store"], f"{line['seconds']:g}", line["learned_samples_per_second"]),
                *(line["offered_samples_per_second"], line["taken_samples_per_second"], line["acknowledged"]),
                *(line["lost"], line["doubled"], line["undecided"]),
                f"{line['memory_mib']['before']}, {line['memory_mib']['most']}",
                *(f"{idle[q]:.0f}, {loaded[q]:.0f} ms" for q in ("p50", "p99")),
                line["predict_p99_ratio"],
            ]
        )


def _rates(rates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"File system: {', '.join(sorted({line['disk'] for line in rates}))}."
    yield ""
    yield "| batch | producers | store | durable, 1/s | MB/s | group | not durable, 1/s | bare disk, 1/s | of that |"
    yield "|--:|--:|---|--:|--:|--:|--:|--:|--:|"
    for size, of_size in _grouped(rates, "size"):
        for producers, cases in _grouped(of_size, "producers"):
            for store in ("sqlite", "redis"):
                yield _row([f"{size // 1024} KiB", producers, store, *_compared(cases, store)])


def _compared(cases: Sequence[Mapping[str, Any]], store: str) -> list[str]:
    durable = [case for case in cases if case["store"] == store and case["durable"]]
    fast = _median((case for case in cases if case["store"] == store and not case["durable"]), "per_second")
    bare = _median((case for case in cases if case["store"].endswith(f"grouped as {store}")), "per_second")
    rate, group = _median(durable, "per_second"), _median(durable, "group")
    share = f"{100 * rate / bare:.0f} %"
    return [
        f"{rate:.0f}",
        f"{_median(durable, 'mb_per_second'):.1f}",
        f"{group:.1f}" if group else "-",
        f"{fast:.0f}",
        f"{bare:.0f}",
        share,
    ]


def _median(lines: Iterable[Mapping[str, Any]], name: str) -> float:
    return float(statistics.median(line[name] for line in lines))


def _grouped(lines: Sequence[Mapping[str, Any]], name: str) -> Iterator[tuple[Any, list[Mapping[str, Any]]]]:
    for value, group in groupby(sorted(lines, key=lambda line: line[name]), key=lambda line: line[name]):
        yield value, list(group)


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _made_with() -> str:
    redis = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout.split()
    version = next((word.removeprefix("v=") for word in redis if word.startswith("v=")), "none")
    return (
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, Redis {version}, "
        f"{platform.system()} {platform.release().partition('-')[0]} on {os.cpu_count()} cores of {_processor()}."
    )


def _processor() -> str:
    names = (
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line
    )
    return next(names, platform.machine())


if __name__ == "__main__":
    if not SOURCE.is_file():
        sys.exit(f"{SOURCE} is missing: run make soak, make pressure and make throughput first")
    main()
