"""The benchmark of growth measures what it says at every size; its seconds are nobody's assertion."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from weir.bench import growth, inbox, plots
from weir.bench.__main__ import app
from weir.bench.aging import Plan, sizes
from weir.errors import InvalidSetting
from weir.stores.redis import Redis
from weir.stores.sqlite import Sqlite
from weir.trainer.cutter import Cutter

PLAN = Plan(batches=100, known=20, rows=40, producers=1, tries=5)
REDIS = pytest.mark.needs("redis-server")


@pytest.fixture(scope="module")
def beats() -> list[int]:
    return []


@pytest.fixture(scope="module")
def result(beats: list[int]) -> dict[str, Any]:
    return growth.measure(PLAN, progress=beats.append)


def part(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["part"] == name]


def test_the_batches_are_told_of_by_tenths(result: dict[str, Any], beats: list[int]) -> None:
    tenths = part(result, "engine")
    assert [row["batches"] for row in tenths] == [10] * 10
    for row in tenths:
        assert 0 < row["median_seconds"] <= row["p99_seconds"] <= row["longest_seconds"]
        assert row["busy_seconds"] > 0
        assert min(row["rss_bytes"], row["objects"], row["state_bytes"]) > 0
    last = tenths[-1]
    assert 0 < last["updates"] <= 100 - sum(row["vetoes"] for row in tenths)
    assert last["probe_accuracy"] > 0.5
    assert sum(beats) >= PLAN.batches + PLAN.known


def test_the_state_stops_growing_once_the_windows_are_full(result: dict[str, Any]) -> None:
    first, *later = (row["state_bytes"] for row in part(result, "engine"))
    assert first == pytest.approx(later[0], rel=0.01)  # the window of a producer are eight of these batches
    assert max(later) <= 1.005 * min(later)


def test_every_producer_that_is_known_is_in_the_state(result: dict[str, Any]) -> None:
    known = part(result, "producers")
    assert [row["producers"] for row in known] == sizes(20) == [1, 2, 20]
    assert known[0]["state_bytes"] < known[1]["state_bytes"] < known[2]["state_bytes"]
    assert all(row["process_seconds"] > row["report_seconds"] > 0 for row in known)


def test_an_inbox_is_measured_at_every_size(tmp_path: Path) -> None:
    rows = list(inbox.grown("sqlite", Plan(rows=40, tries=5, place=str(tmp_path)), progress=lambda beats: None))
    assert [(row.store, row.rows) for row in rows] == [("sqlite", 1), ("sqlite", 4), ("sqlite", 40)]
    for row in rows:
        assert 0 < row.append_seconds <= row.append_p99_seconds
        assert 0 < row.relaxed_seconds <= row.relaxed_p99_seconds
        assert 0 < row.take_seconds <= row.take_p99_seconds
        assert row.backlog_seconds > 0
    assert not list(tmp_path.iterdir())


def test_filling_stops_when_so_many_wait_and_taking_makes_room(tmp_path: Path) -> None:
    plan = Plan(producers=3)
    with Sqlite(tmp_path / "weir.db", relaxed=True) as stores:
        deliveries, cutter = inbox.Deliveries(plan), Cutter(stores.log, step_size=plan.samples)
        for size in (7, 30):
            inbox.fill(stores.log, size, deliveries, progress=lambda beats: None)
            assert stores.log.backlog().batches == size
        assert {entry.producer for entry in stores.log.read(0, 30)} == {"producer 0", "producer 1", "producer 2"}
        inbox.take(stores.log, cutter)
        assert stores.log.backlog().batches == 30 - plan.samples // inbox.SAMPLES


@REDIS
def test_the_server_of_its_own_is_as_durable_as_asked(tmp_path: Path) -> None:
    with (
        inbox.STORES["redis"](tmp_path, {}) as opened,
        redis.Redis(unix_socket_path=str(tmp_path / "redis.sock")) as own,
    ):
        for relaxed, expected in ((True, b"no"), (False, b"always")):
            opened(relaxed)
            assert own.config_get("appendfsync") in ({"appendfsync": expected}, {"appendfsync": expected.decode()})
        assert own.config_get("appendonly")["appendonly"] in (b"yes", "yes")
        inbox.fill(opened(True), 3, inbox.Deliveries(Plan()), progress=lambda beats: None)
        with Redis(f"unix://{tmp_path / 'redis.sock'}") as stores:
            assert stores.log.backlog().batches == 3
    assert not (tmp_path / "redis.sock").exists()


@REDIS
def test_both_stores_are_in_the_result(result: dict[str, Any]) -> None:
    assert [(row["store"], row["rows"]) for row in part(result, "inbox")] == [
        (store, size) for store in ("sqlite", "redis") for size in (1, 4, 40)
    ]
    assert result["left_out"] == []


def test_a_store_without_its_program_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = growth.measure(Plan(batches=0, known=0, rows=2, tries=1))
    assert {row["store"] for row in result["rows"]} == {"sqlite"}
    assert "left out: redis: the program redis-server is not on the PATH" in growth.table(result)


def test_the_command_prints_tables_writes_the_figures_and_draws_them(tmp_path: Path) -> None:
    file, options = tmp_path / "growth.json", "--batches 4 --known 2 --rows 2 --tries 1"
    done = CliRunner().invoke(app, ["growth", *options.split(), "--json", str(file)])
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text())
    assert written["benchmark"] == "growth"
    assert growth.table(written) in done.output
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_run_may_be_made_in_pieces_of_the_same_settings(result: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "growth.json"
    file.write_text(json.dumps(result))
    plan = replace(PLAN, batches=0, known=0, rows=1)
    before = growth.earlier(file, plan)
    assert before == result
    joined = growth.joined(growth.measure(plan), before)
    assert [joined["plan"][size] for size in ("batches", "known", "rows")] == [100, 20, 1]
    assert [part(joined, name) for name in ("engine", "producers")] == [
        part(result, name) for name in ("engine", "producers")
    ]
    assert {row["rows"] for row in part(joined, "inbox")} == {1}
    with pytest.raises(InvalidSetting, match="same settings"):
        growth.earlier(file, replace(plan, seed=1))
    assert growth.earlier(file, PLAN) is None  # all is measured anew
    assert growth.earlier(tmp_path / "none.json", plan) is None


def test_a_part_that_was_left_out_is_left_out_of_the_picture(result: dict[str, Any], tmp_path: Path) -> None:
    for name in ("engine", "producers", "inbox"):
        plots.growth(part(result, name), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").exists()


def test_the_benchmarks_load_no_store_and_no_web_stack_until_they_need_them() -> None:
    code = "import sys, weir.bench.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"redis", "sqlite3", "fastapi", "uvicorn", "pydantic", "httpx", "safetensors"} & set(loaded)
