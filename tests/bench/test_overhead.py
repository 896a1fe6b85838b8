"""The overhead benchmark counts what it says it counts; its seconds are nobody's assertion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from weir.bench.__main__ import app
from weir.bench.overhead import Plan, measure, table

PLAN = Plan(model="cnn", width=2, batch=16, probe=400, rounds=2, warmup=1, threads=1)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return measure(PLAN)


def test_the_unguarded_update_is_its_own_baseline(result: dict[str, Any]) -> None:
    off = result["rows"][0]
    assert (off["mode"], off["ratio"], off["ratio_low"], off["ratio_high"]) == ("off", 1.0, 1.0, 1.0)
    assert off["forward_samples"] == 2 * PLAN.batch  # one pass for progressive validation, one to train
    assert off["probe_passes"] == 0


def test_the_guarded_update_pays_for_snapshot_and_probe_set(result: dict[str, Any]) -> None:
    weir = result["rows"][1]
    assert (weir["mode"], weir["gate"]) == ("weir", True)
    # 40 % and 30 % of the probe set once, since the anchor's outputs are kept; 20 % for the gate, 10 % for the report.
    assert 3 * PLAN.batch + PLAN.probe <= weir["forward_samples"] <= 3 * PLAN.batch + 1.1 * PLAN.probe
    assert weir["probe_passes"] == pytest.approx((weir["forward_samples"] - 3 * PLAN.batch) / PLAN.probe)


def test_the_vaccine_is_counted_apart_and_spread_over_the_updates_until_the_next(result: dict[str, Any]) -> None:
    off, weir, _ = result["rows"]
    assert off["vaccine_seconds"] == 0.0
    assert off["amortised_ratio"] == off["ratio"]
    assert weir["vaccine_seconds"] > 0.0
    assert weir["amortised_ratio"] == pytest.approx(
        weir["ratio"] + weir["vaccine_seconds"] / 200 / off["median_seconds"]
    )


def test_the_published_rule_costs_what_its_forwards_say(result: dict[str, Any]) -> None:
    dsc = result["rows"][2]
    assert (dsc["mode"], dsc["gate"]) == ("dsc", False)
    assert dsc["forward_samples"] == 4 * PLAN.batch  # stopping at once: score, both models for the mean, train


def test_progress_counts_every_round() -> None:
    seen: list[int] = []
    measure(Plan(model="cnn", width=1, batch=4, probe=400, rounds=1, warmup=1, threads=1), progress=seen.append)
    assert seen == [1, 2]


def test_the_command_prints_a_table_and_writes_the_figures(tmp_path: Path) -> None:
    file = tmp_path / "overhead.json"
    options = "--model cnn --width 1 --batch 4 --probe 400 --rounds 1 --threads 1 --json"
    done = CliRunner().invoke(app, ["overhead", *options.split(), str(file)])
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text())
    assert [row["mode"] for row in written["rows"]] == ["off", "weir", "dsc"]
    assert table(written) in done.output
