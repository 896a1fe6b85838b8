"""The model of scaling: what it is made of, and that it says what gives out first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from weir.bench import scaling
from weir.bench.__main__ import app
from weir.bench.scaling import Constants, Plan, Serial, cost, limits, model, parts
from weir.core import build
from weir.types import InputSpec, Recipe

PLAN = Plan(model="cnn", width=2, step=1_000, probe=1_000)
SERIAL = Serial(1e-3, 1e-5)


def test_alone_a_gpu_sends_nothing_and_with_others_computes_a_share() -> None:
    one, four = (parts(PLAN, SERIAL, gpus, flops=1e9, parameters=10**6) for gpus in (1, 4))
    assert one["gradients"] == one["deal"] == one["messages"] == 0.0
    assert four["compute"] == pytest.approx(one["compute"] / 4)
    assert four["gradients"] > 2 * 0.75 * 4e6 / Constants().node_bandwidth
    assert four["deal"] == pytest.approx(0.75 * 1_000 * 3_072 / Constants().node_bandwidth)
    assert four["judging"] == one["judging"] == pytest.approx(1e-3 + 1e-2)


def test_a_group_is_slower_than_each_of_its_parts_and_the_slowest_is_named() -> None:
    result = model(PLAN, SERIAL)
    assert [row["gpus"] for row in result["rows"]] == list(scaling.GPUS)
    last = result["rows"][-1]
    own = {name: rate for name, rate in result["limits"].items() if name.startswith("group: ")}
    assert last["samples_per_second"] < min(own.values())
    assert own[f"group: {last['most']}"] == min(own.values())
    assert list(result["limits"].values()) == sorted(result["limits"].values())


def test_what_stands_before_the_group_has_limits_of_its_own() -> None:
    found = limits(PLAN, {"compute": 0.5, "deal": 0.0})
    assert found["group: compute"] == 2_000
    assert "group: deal" not in found
    assert found["Redis: link"] == Constants().ethernet / 3_072


def test_the_cost_of_a_model_is_counted() -> None:
    flops, parameters = cost(PLAN)
    layers: list[float] = []

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        weight: torch.Tensor = module.weight  # type: ignore[assignment]
        layers.append(2.0 * weight[0].numel() * output[0].numel())

    made = build(Recipe("cnn", InputSpec((3, 32, 32), 10), {"width": 2})).eval()
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    made(torch.zeros(1, 3, 32, 32))
    assert flops == sum(layers)
    assert parameters == sum(parameter.numel() for parameter in made.parameters())


def test_the_command_measures_the_serial_part_and_labels_every_constant(tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    done = CliRunner().invoke(app, ["scaling", "--model", "cnn", "--width", "1", "--json", str(file)])
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text())
    assert written["serial"]["each"] > 0
    assert all(source.split(":")[0] in ("vendor", "assumption", "measured") for source in written["sources"].values())
    assert scaling.table(written) in done.output
