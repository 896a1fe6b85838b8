"""What must be met: a line for each bar that is missed, and no silence where nothing was shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from weir.bench.__main__ import app
from weir.bench.harness import Cell, Harness
from weir.bench.summary import required, summary
from weir.bench.tables import tables
from weir.bench.terms import Terms
from weir.errors import InvalidSetting


@pytest.fixture(scope="module")
def rows(harness: Harness, terms: Terms) -> list[dict[str, Any]]:
    made = [harness.run(Cell(name, "hold-all", 0, terms)) for name in ("clean", "accumulative")]
    return [{**row, "unguarded_gain": 0.1, "unguarded_loss": 0.1} for row in made]


def missed(rows: list[dict[str, Any]], text: str) -> list[str]:
    made = tables(rows)
    return [line for requirement in required(text) for line in requirement.missed(made)]


def test_each_missed_bar_is_a_line_that_says_where_and_by_how_much(rows: list[dict[str, Any]]) -> None:
    found = missed(rows, "clean:hold-all")
    place = "clean:hold-all (digits, mlp hidden 64, lr 0.01, BN none): "
    assert found == [f"{place}plasticity ≥ 0.95: 0.00, by 0.95", f"{place}honest touched ≤ 2.5%: 100.0%, by 97.5%"]


def test_all_is_every_scenario_that_was_run(rows: list[dict[str, Any]]) -> None:
    assert {line.partition(":")[0] for line in missed(rows, "all:hold-all")} == {"clean", "accumulative"}


def test_what_was_not_run_and_what_does_not_bite_are_no_pass(rows: list[dict[str, Any]]) -> None:
    assert missed(rows, "ratchet:weir, clean:weir") == ["ratchet:weir: no runs", "clean:weir: no runs"]
    tame = [{**row, "unguarded_loss": 0.0} for row in rows]
    assert missed(tame, "accumulative:hold-all") == ["accumulative:hold-all: no attack bites"]


@pytest.mark.parametrize(("text", "known"), [("clean:moat", "dsc"), ("nowhere:weir", "ratchet"), ("weir", "weir")])
def test_unknown_names_are_refused_with_the_known_ones(text: str, known: str) -> None:
    with pytest.raises(InvalidSetting, match=known):
        required(text)


def test_the_summary_holds_every_bar_as_plain_values(rows: list[dict[str, Any]]) -> None:
    (clean, _) = json.loads(json.dumps(summary(tables(rows)), allow_nan=False))
    assert (clean["scenario"], clean["guard"], clean["seeds"], clean["attack_bites"]) == (
        "clean",
        "hold-all",
        [0],
        None,
    )
    bar = clean["bars"][0]
    assert (bar["met"], bar["value"], bar["bound"], bar["by"]) == (False, 0.0, 0.95, "0.95")


def test_the_report_refuses_when_a_required_bar_is_missed(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    file, out, bars = tmp_path / "rows.jsonl", tmp_path / "guard.md", tmp_path / "bars.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["report", str(file), "--out", str(out), "--json", str(bars)]
    assert CliRunner().invoke(app, command).exit_code == 0
    refused = CliRunner().invoke(app, [*command, "--require", "clean:hold-all"])
    assert refused.exit_code == 1
    assert len(refused.output.splitlines()) == 3
    assert "by 0.95" in refused.output
    assert out.exists()
    assert len(json.loads(bars.read_text())) == 2
