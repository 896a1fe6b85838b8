"""Whose rows are whose, and sums over them."""

from __future__ import annotations

from collections import Counter

import torch

from weir.core.roster import Roster

NAMES = ["bob", "ann", "bob", "cid", "ann", "bob"]
LABELS = [0, 1, 0, 2, 2, 1]


def test_producers_stand_in_the_order_in_which_they_are_heard_of_with_rows_and_classes() -> None:
    roster = Roster(NAMES, LABELS)
    assert len(roster) == 3
    assert roster.rows == {"bob": [0, 2, 5], "ann": [1, 4], "cid": [3]}
    assert [NAMES[row] for row in range(6)] == [list(roster.rows)[place] for place in roster.place.tolist()]
    assert roster.number == {"bob": 0, "ann": 1, "cid": 2}
    assert roster.classes == [Counter({0: 2, 1: 1}), Counter({1: 1, 2: 1}), Counter({2: 1})]


def test_sums_are_of_the_rows_of_each_in_double_precision() -> None:
    values = torch.tensor([[1e8, 1.0], [2.0, 2.0], [1.0, 3.0], [4.0, 4.0], [5.0, 5.0], [-1e8, 6.0]])
    assert Roster(NAMES, LABELS).sums(values).tolist() == [[1.0, 10.0], [7.0, 7.0], [4.0, 4.0]]


def test_a_step_without_rows_has_no_producers() -> None:
    roster = Roster([], [])
    assert len(roster) == 0
    assert roster.sums(torch.empty(0, 3)).shape == (0, 3)
