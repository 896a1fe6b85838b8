"""Columns that say nothing are left out, and nothing that says something is."""

from __future__ import annotations

from weir.bench.columns import NOTHING, compact, grid

TITLES = ["guard", "start", "end", "AUROC"]


def test_a_column_without_content_goes_and_one_with_the_same_content_is_said_once() -> None:
    titles, lines, alike = compact(TITLES, [["none", "58", "87", NOTHING], ["weir", "58", "86", NOTHING]])
    assert titles == ["guard", "end"]
    assert lines == [["none", "87"], ["weir", "86"]]
    assert alike == "start 58"


def test_a_single_line_keeps_what_it_has() -> None:
    titles, _, alike = compact(TITLES, [["weir", "58", "86", NOTHING]])
    assert titles == ["guard", "start", "end"]
    assert alike == ""


def test_a_value_that_is_missing_once_keeps_its_column() -> None:
    titles, _, _ = compact(TITLES, [["none", "58", "87", NOTHING], ["weir", "58", "87", "0.9"]])
    assert titles == ["guard", "AUROC"]


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    assert {line.count("|") for line in grid(["a", "b"], [["1", "2"], ["3", "4"]])} == {3}
