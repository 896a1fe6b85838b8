"""What time and size add to the cost: many batches through one engine, many producers, and a long inbox.

Each part measures the same thing over and over while something grows; what a service may run on for good is flat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from weir.bench import aging, inbox, redis_server, traffic
from weir.bench.aging import Plan, Progress
from weir.errors import InvalidSetting

MEBIBYTE = 1 << 20
SIZES = {"engine": "batches", "producers": "known", "inbox": "rows"}
"""What of the plan says how far each part grows."""


def measure(plan: Plan, progress: Progress = lambda beats: None) -> dict[str, Any]:
    """Run the plan; JSON-ready rows, and in words what was left out."""
    torch.set_num_threads(plan.threads)
    rows: list[Any] = [*aging.tenths(plan, progress), *aging.known(plan, progress)]
    lacks, left_out = redis_server.missing(), []
    for store in inbox.STORES if plan.rows else ():
        if store == "redis" and lacks:
            left_out.append(f"{store}: {lacks}")
        else:
            rows += inbox.grown(store, plan, progress)
    result = traffic.result("growth", asdict(plan), [asdict(row) for row in rows], "cpu")
    return result | {"left_out": left_out}


def earlier(file: Path, plan: Plan) -> dict[str, Any] | None:
    """The result in a file that has the parts which this plan leaves out; None where it leaves none out, or no file is.

    A long run may so be made in pieces. Raises InvalidSetting for a result with other settings, or of another machine.
    """
    mine = asdict(plan)
    if all(mine[size] for size in SIZES.values()) or not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    fixed = mine.keys() - {*SIZES.values(), "place"}
    same = all(found["plan"][name] == mine[name] for name in fixed) and found["hardware"] == traffic.hardware("cpu")
    if not same:
        raise InvalidSetting("--json", str(file), "a file of the same settings and machine, or a new one")
    return found


def joined(result: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A result, with the parts of an earlier one that it leaves out."""
    source = {part: result if result["plan"][size] else before for part, size in SIZES.items()}
    rows = [row for part, found in source.items() for row in found["rows"] if row["part"] == part]
    plan = {size: source[part]["plan"][size] for part, size in SIZES.items()}
    return {**result, "plan": {**result["plan"], **plan}, "rows": rows, "left_out": source["inbox"]["left_out"]}


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown tables, one for each part."""
    plan, machine = result["plan"], result["hardware"]
    lines = [
        f"perceptron of {plan['hidden']}, images [1, 8, 8], a step of {plan['samples']} samples a batch, "
        f"{plan['producers']} producers, probe set {plan['probe']}, vaccine and gate on, seed {plan['seed']}; "
        f"{machine['device']}, {plan['threads']} threads, torch {result['versions']['torch']}; inboxes are filled by "
        "relaxed appends, and the bounds on what waits are out of the way"
    ]
    for part, (head, line) in TABLES.items():
        rows = [row for row in result["rows"] if row["part"] == part]
        if rows:
            columns = head.count("|") - 1
            lines += ["", head, "|" + "--:|" * columns, *map(line, rows)]
    return "\n".join([*lines, *(f"\nleft out: {lacks}" for lacks in result["left_out"])])


def _tenth(row: Mapping[str, Any]) -> str:
    accuracy = "-" if row["probe_accuracy"] is None else f"{row['probe_accuracy']:.1%}"
    return (
        f"| {row['tenth']} | {row['batches']} | {1e3 * row['median_seconds']:.2f} | {1e3 * row['p99_seconds']:.2f} "
        f"| {1e3 * row['longest_seconds']:.0f} | {1e3 * row['busy_seconds']:.2f} "
        f"| {row['rss_bytes'] / MEBIBYTE:.1f} | {row['objects']} "
        f"| {row['state_bytes']} | {row['held_ratio']:.2%} | {row['vetoes']} | {accuracy} |"
    )


def _known(row: Mapping[str, Any]) -> str:
    return (
        f"| {row['producers']} | {1e3 * row['process_seconds']:.2f} | {1e3 * row['report_seconds']:.3f} "
        f"| {row['state_bytes']} |"
    )


def _inbox(row: Mapping[str, Any]) -> str:
    figures = ("append", "relaxed", "take")
    spent = (f"{1e3 * row[f'{name}_seconds']:.2f} | {1e3 * row[f'{name}_p99_seconds']:.2f}" for name in figures)
    return f"| {row['store']} | {row['rows']} | {' | '.join(spent)} | {1e3 * row['backlog_seconds']:.2f} |"


TABLES = {
    "engine": (
        "| tenth | batches | step p50, ms | p99, ms | longest, ms | busy p50, ms | RSS, MiB | objects "
        "| state, bytes | held | vetoes | probe |",
        _tenth,
    ),
    "producers": ("| producers known | process p50, ms | producers() p50, ms | state, bytes |", _known),
    "inbox": (
        "| store | rows waiting | append p50, ms | p99 | relaxed p50, ms | p99 | take a step p50, ms | p99 "
        "| backlog p50, ms |",
        _inbox,
    ),
}
