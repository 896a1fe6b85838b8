"""The measurements of ``soak`` and ``throughput`` as Markdown: ``python -m tests.faults.table``."""

from __future__ import annotations

import json
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

Made by `make soak` and `make throughput` from `benchmarks/durability.jsonl`; what is tested is `tests/faults/`.

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
    TARGET.write_text("\n".join([HEAD, *_faults(soaks), RATES, *_rates(rates), "", _made_with(), ""]))


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
        f"{platform.system()} {platform.release().partition('-')[0]} on {platform.machine()}."
    )


if __name__ == "__main__":
    if not SOURCE.is_file():
        sys.exit(f"{SOURCE} is missing: run make soak and make throughput first")
    main()
