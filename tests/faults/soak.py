"""Many deaths of the real service over each store, a JSON line per run: ``python -m tests.faults.soak --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults import harness
from tests.faults.backends import BACKENDS
from tests.faults.model import burned_in

PER_RUN = 50  # deaths: the run without them takes its time too
PATIENCE = 60.0  # seconds per death


def main() -> None:
    """Run, and add to the file; exits with 1 when a run did not end as it should."""
    asked = _arguments()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    sound = True
    with tempfile.TemporaryDirectory(prefix="weir-soak-") as place, asked.out.open("a") as out:
        template = Path(place) / "template"
        burned_in(template, harness.ENVIRONMENT)
        for line in _runs(asked, Path(place), template):
            sound = sound and line["equal"] and not line["lost"] and not line["doubled"]
            out.write(json.dumps(line) + "\n")
            out.flush()
            told = ", ".join(f"{name} {value}" for name, value in line.items() if name != "recovery")
            sys.stdout.write(f"{told}\n")
    raise SystemExit(not sound)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill the service many times over each store.")
    parser.add_argument("--kills", type=int, default=500, help="deaths per store")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run; each has another one")
    parser.add_argument("--store", choices=BACKENDS, action="append", help="only this one; repeat for more")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/durability.jsonl"), help="file to add lines to")
    return parser.parse_args()


def _runs(asked: argparse.Namespace, place: Path, template: Path) -> Iterator[dict[str, Any]]:
    """All runs: the stores take turns, and every other run has the vaccine on."""
    left, number = asked.kills, 0
    while left > 0:
        count = min(PER_RUN, left)
        for store in asked.store or BACKENDS:
            yield _one(
                store, place / f"{store}-{number}", template, count, asked.seed + number, vaccine=number % 2 == 0
            )
        left, number = left - count, number + 1


def _one(store: str, place: Path, template: Path, count: int, seed: int, *, vaccine: bool) -> dict[str, Any]:
    place.mkdir()
    began = time.monotonic()
    environment = harness.ENVIRONMENT if vaccine else {**harness.ENVIRONMENT, **harness.WITHOUT_VACCINE}
    deaths = harness.mixed(count, seed=seed)
    with BACKENDS[store](place / "data", template) as backend:
        outcome = harness.run(
            backend, place / "log", deaths, seed=seed, environment=environment, seconds=PATIENCE * count
        )
    found = asdict(outcome)
    del found["log"]
    points = sum(isinstance(death, harness.AtPoint) for death in deaths)
    return {
        "what": "soak",
        "store": store,
        "seed": seed,
        "vaccine": vaccine,
        "deaths": count,
        "at_points": points,
        "equal": not outcome.differences and not outcome.undecided,
        "seconds": round(time.monotonic() - began, 1),
        "cores": os.cpu_count(),
        **found,
    }


if __name__ == "__main__":
    main()
