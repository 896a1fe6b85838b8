"""The benchmark of ranks counts what they send each other; its seconds are nobody's assertion."""

from __future__ import annotations

import pytest

from weir.bench import ranks
from weir.core import build
from weir.types import InputSpec, Recipe


def test_two_ranks_hand_over_their_rows_and_their_gradients() -> None:
    plan = ranks.Plan(model="cnn", width=1, step=16, probe=400, ranks=(2,), rounds=1, warmup=2)
    result = ranks.measure(plan)
    strong, weak = result["rows"]
    assert [(row["scaling"], row["ranks"], row["step"]) for row in result["rows"]] == [
        ("strong", 2, 16),
        ("weak", 2, 32),
    ]
    assert strong["messages"] == weak["messages"]
    image = 3 * 32 * 32 * 4 / 1e3
    module = build(Recipe("cnn", InputSpec((3, 32, 32), 10), {"width": 1}))
    gradients = sum(parameter.numel() for parameter in module.parameters()) * 4 / 1e3
    assert weak["kilobytes"] - strong["kilobytes"] == pytest.approx(8 * image, rel=0.02)  # and their evidence
    assert strong["kilobytes"] >= 8 * image + gradients
    assert "| strong | 2 | 16 |" in ranks.table(result)
