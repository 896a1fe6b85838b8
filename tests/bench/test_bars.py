"""What is asked of a guard where a scenario has a bar of its own."""

from __future__ import annotations

import pytest

from weir.bench.bars import bars


@pytest.mark.parametrize(("after", "met"), [(0.87, True), (0.86, False)])
def test_who_knows_the_guard_may_cost_three_points(after: float, met: bool) -> None:
    figures = {
        "accuracy_after_trigger": after,
        "accuracy_reference": 0.895,
        "plasticity_ratio": 1.0,
        "unguarded_gain": 0.2,
    }
    cost = bars("adaptive", figures)[0]
    assert cost.met is met
    assert cost.name == "cost after ≤ 3.00%"
