"""Tables say what was met, what was missed, and what proves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from weir.bench.bars import BARS, bars
from weir.bench.harness import Cell, Harness
from weir.bench.report import markdown, summary
from weir.bench.scenario import SCENARIOS
from weir.bench.tables import averaged
from weir.bench.terms import Terms


@pytest.fixture(scope="module")
def rows(harness: Harness, terms: Terms) -> list[dict[str, Any]]:
    cells = [Cell("accumulative", guard, 0, terms) for guard in ("weir", "none", "hold-all")]
    return [harness.run(cell) for cell in cells]


def table(rows: list[dict[str, Any]]) -> str:
    return markdown(rows).partition("## accumulative:")[2]


def said(text: str, guard: str) -> str:
    """The words on a guard's bars, under its table."""
    return next(line for line in text.splitlines() if line.startswith("- ") and guard in line)


def with_loss(rows: list[dict[str, Any]], loss: float) -> list[dict[str, Any]]:
    return [{**row, "seed": seed, "unguarded_loss": loss} for row in rows for seed in (0, 1, 2)]


def test_every_scenario_has_bars() -> None:
    assert set(BARS) >= set(SCENARIOS)


def test_an_attack_that_does_not_bite_proves_nothing(rows: list[dict[str, Any]]) -> None:
    assert "proves nothing" in markdown(with_loss(rows, 0.04))
    assert "proves nothing" not in markdown(with_loss(rows, 0.06))


def test_few_seeds_make_no_claim(rows: list[dict[str, Any]]) -> None:
    assert "no claim" in markdown(rows)
    assert "no claim" not in markdown(with_loss(rows, 0.06))


def test_guards_stand_in_their_order_and_dummies_in_italics(rows: list[dict[str, Any]]) -> None:
    text = table(rows)
    assert text.index("| none ") < text.index("| *hold-all* ") < text.index("| weir ")


def test_learning_nothing_misses_the_bar_of_plasticity(rows: list[dict[str, Any]]) -> None:
    room = [{**row, "unguarded_gain": 0.1, "plasticity_ratio": float(row["guard"] != "hold-all")} for row in rows]
    assert "plasticity ≥ 0.95: 0.00" in said(table(room), "hold-all")
    assert "plasticity" not in said(table([{**row, "unguarded_gain": 0.04} for row in room]), "hold-all")


def test_the_overview_counts_the_bars_of_the_principal_guards(rows: list[dict[str, Any]]) -> None:
    overview = markdown(with_loss(rows, 0.06)).partition("## Overview")[2].partition("##")[0]
    (found,) = [line for line in overview.splitlines() if line.startswith("| accumulative ")]
    assert "| yes |" in found
    assert found.count(" of ") == 2


def test_a_missed_bar_says_by_what(rows: list[dict[str, Any]]) -> None:
    figures = averaged(rows[:1]) | {"published_after_trigger": None, "gain_ratio": 1.0, "plasticity_ratio": 1.0}
    figures["unguarded_gain"] = 0.3
    figures |= {"accuracy_after_trigger": 0.70, "accuracy_reference": 0.75, "accuracy_final": 0.9}
    figures |= {"accuracy_reference_final": 0.9, "held_poison_ratio": 1.0, "corrected_poison_ratio": 0.0}
    assert summary(bars("accumulative", figures)) == "**missed 1 of 5**: cost after ≤ 1.00%: 5.00%, by 4.00%"
    assert summary(bars("accumulative", figures | {"accuracy_after_trigger": 0.745})) == "all 5 met"


def test_no_alarm_in_too_few_batches_is_no_proof(rows: list[dict[str, Any]]) -> None:
    figures = averaged(rows[:1]) | {"plasticity_ratio": 1.0, "unguarded_gain": 0.3, "touched_clean_ratio": 0.01}
    assert "open: alarms / batch" in summary(bars("clean", figures | {"alarms": 0, "batches": 300}))
    assert summary(bars("clean", figures | {"alarms": 0, "batches": 3000})) == "all 3 met"
    assert "missed 1 of 3" in summary(bars("clean", figures | {"alarms": 4, "batches": 3000}))


def test_a_changing_world_must_be_called_drift_and_no_more_than_one_batch_in_twenty_poison() -> None:
    figures = {"plasticity_ratio": 0.95, "drift_steps": 1, "called_poison": 5, "batches": 100}
    assert summary(bars("drift_sudden", figures)) == "all 3 met"
    missed = summary(bars("drift_sudden", figures | {"called_poison": 8, "drift_steps": 0}))
    assert "steps called drift ≥ 1: 0, by 1" in missed
    assert "batches called poison ≤ 5.0%: 8.0%, by 3.0%" in missed


def test_all_evidence_and_model_only_have_bars_of_their_own() -> None:
    figures = {"auroc": 0.96, "auroc_model_only": 0.80, "touched_clean_ratio": 0.0, "plasticity_ratio": 1.0}
    figures |= {"accuracy_after_trigger": 0.9, "accuracy_reference": 0.9, "accuracy_final": 0.9}
    figures |= {"accuracy_reference_final": 0.9, "unguarded_gain": 0.0}
    assert summary(bars("mixed", figures)) == "**missed 1 of 5**: AUROC model-only ≥ 0.85: 0.80, by 0.05"
    assert summary(bars("mixed", figures | {"auroc_model_only": None})) == "all 4 met"


def test_what_is_alike_for_all_guards_is_said_once(rows: list[dict[str, Any]]) -> None:
    text = table(rows)
    assert "Alike for all: start" in text
    assert "| start |" not in text


def test_guards_of_which_the_same_is_said_are_named_together(rows: list[dict[str, Any]]) -> None:
    twins = [*rows, {**next(row for row in rows if row["guard"] == "weir"), "guard": "weir-no-images"}]
    assert "weir, weir-no-images: " in table(twins)
