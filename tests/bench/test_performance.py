"""The page of speed shows every figure that was made, under the heading of what made it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from typer.testing import CliRunner

from weir.bench import overhead, startup
from weir.bench.__main__ import app
from weir.bench.performance import HEADINGS, page


def test_each_heading_is_of_a_module_that_shows_its_results() -> None:
    for name in HEADINGS:
        assert callable(importlib.import_module(f"weir.bench.{name}").table)


def test_results_stand_under_their_headings_in_order_and_others_are_left_out(tmp_path: Path) -> None:
    small = overhead.Plan(model="cnn", width=1, batch=4, probe=400, rounds=1, warmup=1, threads=1)
    results = [startup.measure(startup.Plan(rounds=1, warmup=0)), overhead.measure(small), {"benchmark": "guard"}]
    files = []
    for number, result in enumerate(results):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(result))
    out = tmp_path / "performance.md"
    done = CliRunner().invoke(app, ["performance", *map(str, files), "--out", str(out)])
    assert done.exit_code == 0, done.output
    written = out.read_text()
    assert written == page(results)
    first, second = (written.index(f"## {HEADINGS[name]}") for name in ("overhead", "startup"))
    assert first < written.index(overhead.table(results[1])) < second < written.index(startup.table(results[0]))
