"""The published rule makes the passes that its released code makes, does what it should, and Weir stands beside it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from weir.bench.published import ALWAYS, EPSILON, NEVER, Passes, Plan, Released, Rewritten, measure, rounds, table
from weir.core import LearnerConfig

PLAN = Plan(model="cnn", width=2, batch=10, probe=400, rounds=1, warmup=1, threads=1)
CONFIG = LearnerConfig(lr=0.1)


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("kind", "threshold", "passes"),
    [
        (Released, NEVER, 10),
        (Rewritten, NEVER, 5),
        (Released, ALWAYS, 48),
        (Rewritten, ALWAYS, 33),
    ],
)
def test_passes_are_those_of_the_rule(kind: Any, threshold: float, passes: int) -> None:
    counted = Passes(5)
    kind(model(1), model(2), CONFIG, counted).step(torch.rand(5, 12), torch.arange(5) % 3, threshold)
    assert counted.count == passes


@pytest.mark.parametrize("threshold", [NEVER, ALWAYS, 0.02])
def test_the_rewrite_learns_what_the_released_step_learns(threshold: float) -> None:
    x, y = torch.rand(5, 12), torch.arange(5) % 3
    ends = []
    for kind in (Released, Rewritten):
        current = model(1)
        before = deepcopy(current.state_dict())
        kind(current, model(2), CONFIG, Passes(5)).step(x.clone(), y, threshold)
        assert any(not torch.equal(tensor, before[name]) for name, tensor in current.state_dict().items())
        ends.append(current.state_dict())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name])


def test_correction_changes_what_is_learned() -> None:
    x, y = torch.rand(5, 12), torch.arange(5) % 3
    ends = []
    for threshold in (NEVER, ALWAYS):
        current = model(1)
        Released(current, model(2), CONFIG, Passes(5)).step(x.clone(), y, threshold)
        ends.append(current.state_dict()["3.weight"])
    assert not torch.allclose(ends[0], ends[1])
    assert EPSILON > 0


def test_every_subject_is_measured_on_every_traffic() -> None:
    seen: list[int] = []
    result = measure(PLAN, progress=seen.append)
    assert seen == list(range(1, rounds(PLAN) + 1))
    assert [row["subject"] for row in result["rows"]] == ["weir", "released", "rewritten"] * 3
    weir = [row for row in result["rows"] if row["subject"] == "weir"]
    assert [row["ratio"] for row in weir] == [1.0] * 3
    assert weir[0]["passes"] >= 4  # one forward, one backward, the snapshot
    assert weir[2]["touched_ratio"] > weir[0]["touched_ratio"]
    shown = table(result)
    assert all(f"| {row['subject']} |" in shown for row in result["rows"])
