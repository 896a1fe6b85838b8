"""The overhead benchmark counts what it says it counts; its seconds are nobody's assertion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from weir.bench import traffic
from weir.bench.__main__ import app
from weir.bench.overhead import BACKWARD, Plain, Plan, flops_forward, measure, table
from weir.core import Engine, EngineConfig, GuardConfig, LearnerConfig
from weir.core.network import Weights
from weir.core.snapshots import Snapshots
from weir.types import GuardMode, Step, StepReport

PLAN = Plan(model="cnn", width=2, batch=16, probe=400, rounds=4, warmup=1, threads=1, float32=True)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return measure(PLAN)


def rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["subject"]: row for row in result["rows"]}


def test_the_plain_update_is_the_baseline_and_makes_one_pass(result: dict[str, Any]) -> None:
    plain = rows(result)["plain"]
    assert (plain["ratio"], plain["ratio_low"], plain["ratio_high"], plain["amortised_ratio"]) == (1.0, 1.0, 1.0, 1.0)
    assert plain["forward_samples"] == PLAN.batch


def test_an_engine_without_guard_scores_and_learns_in_one_pass(result: dict[str, Any]) -> None:
    off = rows(result)["off"]
    assert off["forward_samples"] == PLAN.batch
    assert (off["probe_passes"], off["gate_tests"], off["touched_ratio"]) == (0.0, 0.0, 0.0)


def test_the_guarded_update_pays_for_snapshot_and_some_of_the_probe_set(result: dict[str, Any]) -> None:
    for name in ("weir", "weir, all in float32"):
        row = rows(result)[name]
        least = 2 * PLAN.batch + 0.7 * PLAN.probe / GuardConfig().refresh
        assert least <= row["forward_samples"] < 2 * PLAN.batch + 2 * PLAN.probe
        assert row["probe_passes"] == pytest.approx((row["forward_samples"] - 2 * PLAN.batch) / PLAN.probe)
        assert 0 <= row["gate_tests"] <= 1


def test_the_vaccine_is_counted_apart_and_spread_over_the_updates_until_the_next(result: dict[str, Any]) -> None:
    assert rows(result)["off"]["vaccine_seconds"] == 0.0
    weir = rows(result)["weir"]
    assert weir["vaccine_seconds"] > 0.0
    assert weir["amortised_ratio"] > weir["ratio"]


def test_the_floor_is_the_arithmetic_of_the_passes(result: dict[str, Any]) -> None:
    plain, weir = rows(result)["plain"], rows(result)["weir"]
    assert 0 < plain["floor_seconds"] < weir["floor_seconds"]
    assert weir["floor_seconds"] / plain["floor_seconds"] == pytest.approx(
        (weir["forward_samples"] + BACKWARD * PLAN.batch) / (plain["forward_samples"] + BACKWARD * PLAN.batch)
    )


def test_operations_are_counted_as_by_hand() -> None:
    assert flops_forward(torch.nn.Linear(6, 3), torch.rand(5, 6)) == 2 * 5 * 6 * 3


def test_the_plain_update_learns_as_an_engine_does() -> None:
    config = EngineConfig(guard=GuardConfig(mode=GuardMode.OFF), learner=LearnerConfig(), step_size=16)
    engine = Engine(traffic.recipe("cnn", 2, ""), config)
    plain = Plain(engine, config.learner)
    step = traffic.step(1, *traffic.samples(16, torch.Generator().manual_seed(0)))
    engine.process(step)
    plain.update(step)
    for name, tensor in plain.module.state_dict().items():
        torch.testing.assert_close(tensor, engine.weights()[name])


def test_a_batch_comes_from_as_many_producers_as_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []
    process = Engine.process

    def watched(engine: Engine, step: Step) -> StepReport:
        seen.append(step.producers)
        return process(engine, step)

    monkeypatch.setattr(Engine, "process", watched)
    found = measure(replace(PLAN, producers=5, rounds=1))
    assert {len(set(producers)) for producers in seen} == {5}
    assert "batch 16 of 5 producers" in table(found)
    assert "batch 16 of one producer" in table(measure(replace(PLAN, rounds=1)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_model_has_learned_the_traffic_when_measuring_begins(seed: int) -> None:
    make = traffic.burned_in(traffic.recipe("cnn", 16, ""), EngineConfig(), probe=0, seed=seed)
    x, y = traffic.samples(300, torch.Generator().manual_seed(9))
    assert float((make(EngineConfig()).predict(x).argmax(1) == y).float().mean()) > 0.8


def test_progress_counts_every_round() -> None:
    seen: list[int] = []
    measure(Plan(model="cnn", width=1, batch=4, probe=400, rounds=1, warmup=1, threads=1), progress=seen.append)
    assert seen == [1, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_says_what_the_anchor_is_in_and_measures_float32_beside_it_when_asked(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("weir.core.arithmetic.LARGE", 0)
    monkeypatch.setattr("weir.core.arithmetic.computes_in_bfloat16", lambda _: dtype is torch.bfloat16)
    found = measure(replace(PLAN, rounds=1, float32=False))
    assert list(rows(found)) == ["plain", "off", "weir"]
    anchors: list[torch.dtype] = []
    trust = Snapshots.trust

    def watched(snapshots: Snapshots, updates: int, weights: Weights) -> None:
        trust(snapshots, updates, weights)
        assert snapshots.anchor is not None
        anchors.append(snapshots.anchor.scoring["0.weight"].dtype)

    monkeypatch.setattr(Snapshots, "trust", watched)
    measure(replace(PLAN, rounds=1, float32=True))
    assert anchors[-2:] == [dtype, torch.float32]
    head = table(found).splitlines()[0]
    assert f"anchor and glances in {dtype}".replace("torch.", "") in head
    assert f", {found['plan']['accuracy']:.0%} right at the start" in head


def test_the_command_prints_a_table_and_writes_the_figures(tmp_path: Path) -> None:
    file = tmp_path / "overhead.json"
    options = "--model cnn --width 1 --batch 4 --probe 400 --rounds 1 --threads 1 --float32 --json"
    done = CliRunner().invoke(app, ["overhead", *options.split(), str(file)])
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text())
    assert [row["subject"] for row in written["rows"]] == ["plain", "off", "weir", "weir, all in float32"]
    assert table(written) in done.output
