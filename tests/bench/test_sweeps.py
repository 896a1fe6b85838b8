"""Tables side by side, where something was varied and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from weir.bench.harness import Cell, Harness
from weir.bench.sweeps import cells, sweeps
from weir.bench.tables import tables
from weir.bench.terms import Terms


@pytest.fixture(scope="module")
def rows(harness: Harness, terms: Terms) -> list[dict[str, Any]]:
    return [harness.run(Cell("accumulative", guard, 0, terms)) for guard in ("none", "weir")]


def varied(rows: list[dict[str, Any]], **terms: Any) -> list[dict[str, Any]]:
    return [{**row, **{k: v for k, v in terms.items() if k in row}, "terms": row["terms"] | terms} for row in rows]


def test_a_number_that_was_varied_alone_makes_a_table_in_its_order(rows: list[dict[str, Any]]) -> None:
    made = tables([*varied(rows, attack_steps=7), *varied(rows, attack_steps=2)])
    text = "\n".join(sweeps(made))
    assert "## accumulative over attack_steps" in text
    assert text.index("| 2 |") < text.index("| 7 |")
    assert cells(made) == []


def test_what_differs_in_two_terms_is_no_sweep(rows: list[dict[str, Any]]) -> None:
    assert sweeps(tables([*rows, *varied(rows, lr=0.5, strikes=9)])) == []
    assert sweeps(tables(rows)) == []


def test_every_cell_of_norm_epsilon_and_fraction_has_a_line_of_its_own(rows: list[dict[str, Any]]) -> None:
    made = tables([*rows, *varied(rows, epsilon=0.1), *varied(rows, epsilon=0.1, fraction=0.5)])
    lines = [line for line in cells(made) if line.startswith("| ")]
    assert len(lines) == 1 + 3
    assert sweeps(made) == []
