"""Models by name and by factory, and every way in which one is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weir.core import build
from weir.errors import ModelNotBuilt
from weir.types import InputSpec, Recipe

IMAGES = InputSpec((3, 10, 7), 5)
FACTORIES = """
from torch import nn

number = 7

def linear(inputs, *, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(210, inputs.classes, bias=bias))

def nothing(inputs):
    return None

def broken(inputs):
    raise RuntimeError("out of clay")

def wide(inputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(210, inputs.classes + 1))

def narrow(inputs):
    return nn.Linear(4, inputs.classes)
"""


@pytest.fixture(autouse=True)
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of a user's own."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_models.py").write_text(FACTORIES)
    (tmp_path / "users_typo.py").write_text("def model(:")
    monkeypatch.delitem(sys.modules, "users_models", raising=False)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("mlp", {}),
        ("mlp", {"hidden": [8, 4]}),
        ("mlp", {"hidden": []}),
        ("cnn", {"width": 3}),
        ("resnet18", {"width": 2}),
        ("resnet18", {"width": 2, "pool": False}),
        ("resnet18", {"width": 2, "norm": "group"}),
        ("resnet18", {"width": 2, "norm": "none"}),
        ("users_models:linear", {"bias": False}),
    ],
)
def test_every_model_maps_samples_to_logits(model: str, options: dict[str, Any]) -> None:
    built = build(Recipe(model, IMAGES, options))
    assert built(torch.rand(4, 3, 10, 7)).shape == (4, 5)
    assert not built.training


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("none", None)])
def test_resnet18_has_the_norm_that_was_asked_for(norm: str, kind: type[nn.Module] | None) -> None:
    model = build(Recipe("resnet18", IMAGES, {"width": 8, "norm": norm}))
    found = {type(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)}
    assert found == ({kind} if kind else set())
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 17


def test_resnet18_at_full_width_is_the_usual_one() -> None:
    model = build(Recipe("resnet18", InputSpec((3, 32, 32), 10)))
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


def test_without_norm_a_signal_stays_as_large_as_it_came() -> None:
    """Through the stem and the four shortcuts that are convolutions; as torch starts them they would take it away."""
    torch.manual_seed(0)
    model = build(Recipe("resnet18", IMAGES, {"width": 32, "norm": "none", "pool": False}))
    assert isinstance(model, nn.Sequential)
    features = model[:-3](torch.randn(64, 3, 10, 7))
    assert 0.2 < float(features.square().mean().detach()) < 2


def test_without_norm_every_block_starts_as_its_shortcut() -> None:
    model = build(Recipe("resnet18", IMAGES, {"width": 4, "norm": "none", "pool": False}))
    x = torch.rand(2, 4, 5, 5)
    block = model[3]  # type: ignore[index]
    assert torch.equal(block(x), x)


def test_building_depends_on_the_seed_and_leaves_the_generator_alone() -> None:
    recipe = Recipe("mlp", IMAGES)
    state = torch.get_rng_state()
    weights = [build(recipe, seed=seed)[1].weight for seed in (3, 3, 4)]  # type: ignore[index]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("vgg", {}, "expected one of cnn, mlp, resnet18, or 'package.module:factory'"),
        ("users_models.linear", {}, "'package.module:factory'"),
        ("nowhere_at_all:linear", {}, "cannot be imported"),
        ("users_typo:model", {}, "cannot be imported"),
        (":linear", {}, "cannot be imported"),
        ("users_models:missing", {}, "missing"),
        ("users_models:number", {}, "is a int, a callable was expected"),
        ("users_models:linear", {"depth": 3}, "depth"),
        ("users_models:nothing", {}, "gave a NoneType"),
        ("users_models:broken", {}, "out of clay"),
        ("users_models:wide", {}, r"to \[2, 6\], \[2, 5\] was expected"),
        ("users_models:narrow", {}, "does not take x of shape"),
        ("resnet18", {"norm": "layer"}, "'layer' is not one of batch, group, none"),
        ("mlp", {"hidden": "many"}, "hidden"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(model: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelNotBuilt, match=says):
        build(Recipe(model, IMAGES, options))


def test_a_perceptron_takes_flat_samples_and_a_cnn_does_not() -> None:
    flat = InputSpec((9,), 2)
    assert build(Recipe("mlp", flat))(torch.rand(3, 9)).shape == (3, 2)
    with pytest.raises(ModelNotBuilt):
        build(Recipe("cnn", flat))
