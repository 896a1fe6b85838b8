"""A model as the rest of core sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from weir.core.network import PASS_BYTES, Network
from weir.types import InputSpec, Recipe

if TYPE_CHECKING:
    from tests.core.conftest import World


def test_bytes_and_their_fractions_are_the_same_sample(image_recipe: Recipe) -> None:
    network = Network(image_recipe)
    whole = torch.arange(256, dtype=torch.uint8)[:128].reshape(2, 1, 8, 8)
    prepared = network.prepare(whole)
    assert prepared.dtype == torch.float32
    assert torch.equal(prepared, network.prepare(whole.float() / 255))
    assert float(network.prepare(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)).max()) == 1.0


def test_prepare_shapes_flat_samples_and_leaves_what_it_is_given(image_recipe: Recipe) -> None:
    x = torch.rand(3, 64)
    kept = x.clone()
    prepared = Network(image_recipe).prepare(x.half().float())
    assert prepared.shape == (3, 1, 8, 8)
    assert torch.equal(x, kept)


def test_the_same_seed_gives_the_same_weights(world: World) -> None:
    first, same, other = (Network(world.recipe, seed=seed).snapshot() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_snapshot_stays_as_it_was_and_loads_bit_for_bit(noisy_world: World) -> None:
    network = noisy_world.network()
    snapshot = network.snapshot()
    kept = {name: tensor.clone() for name, tensor in snapshot.items()}
    with network.training(freeze_norm=False), torch.no_grad():
        network.module(torch.rand(8, 6))
        for parameter in network.module.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(snapshot[name], kept[name]) for name in kept)
    changed = network.snapshot()
    assert not any(torch.equal(changed[name], kept[name]) for name in kept)
    network.load(snapshot)
    restored = network.snapshot()
    assert all(torch.equal(restored[name], kept[name]) for name in kept)


def test_outputs_with_the_weights_of_another_model_are_that_models(noisy_world: World) -> None:
    one, other = Network(noisy_world.recipe, seed=1), Network(noisy_world.recipe, seed=2)
    before = one.snapshot()
    x = torch.rand(5, 6)
    borrowed = one.outputs(x, other.snapshot())
    torch.testing.assert_close(borrowed.logits, other.outputs(x).logits, rtol=0, atol=0)
    assert borrowed.features is not None
    torch.testing.assert_close(borrowed.features, other.module[:-1](x), rtol=0, atol=0)  # type: ignore[index]
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.snapshot().items())


def test_features_are_the_input_of_the_layer_that_gives_the_logits(world: World) -> None:
    network = world.network()
    logits, features = network.outputs(torch.rand(5, 6))
    assert features is not None
    head = network.module[-1]  # type: ignore[index]
    assert torch.equal(head(features), logits)


@pytest.mark.parametrize("freeze_norm", [True, False])
def test_training_ends_in_eval_mode_even_after_an_error(noisy_world: World, freeze_norm: bool) -> None:
    network = noisy_world.network()
    norms = [module for module in network.module.modules() if isinstance(module, nn.BatchNorm1d)]

    def fail() -> None:
        with network.training(freeze_norm=freeze_norm):
            assert network.module.training
            assert [module.training for module in norms] == [not freeze_norm]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(module.training for module in network.module.modules())


class Fickle(nn.Module):
    """A linear layer that is not the same in train mode, in one way or another."""

    def __init__(self, inputs: InputSpec, way: str) -> None:
        super().__init__()
        self.head = nn.Linear(6, inputs.classes)
        self.way = way
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            match self.way:
                case "draws":
                    torch.rand(1)
                case "counts":
                    self.seen.add_(1)
                case "scales":
                    x = 1.5 * x
        return self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("way", "same"), [("nothing", True), ("draws", False), ("counts", False), ("scales", False)])
def test_a_pass_serves_for_training_where_it_is_the_same_and_traceless(world: World, way: str, same: bool) -> None:
    network = Network(Recipe(f"{__name__}:Fickle", world.recipe.inputs, {"way": way}))
    held, generator = network.snapshot(), torch.get_rng_state()
    assert network.trains_as_it_scores(freeze_norm=True) is same
    assert all(torch.equal(tensor, held[name]) for name, tensor in network.snapshot().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not network.module.training


@pytest.mark.parametrize(
    ("norm", "frozen", "same"), [("batch", True, True), ("batch", False, False), ("none", False, True)]
)
def test_batch_norm_serves_for_both_when_it_is_frozen(
    image_recipe: Recipe, norm: str, frozen: bool, same: bool
) -> None:
    network = Network(replace(image_recipe, options={**image_recipe.options, "norm": norm}))
    assert network.trains_as_it_scores(freeze_norm=frozen) is same


@pytest.mark.parametrize("n", [1, 5, 12, 13])
def test_large_samples_go_forward_some_at_a_time_and_nothing_else_changes(
    image_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    whole = Network(image_recipe, seed=1)
    monkeypatch.setattr("weir.core.network.PASS_BYTES", PASS_BYTES // (whole.samples_together // 5))
    network, passed = Network(image_recipe, seed=1), list[int]()
    assert network.samples_together == 5
    network.module.register_forward_pre_hook(lambda module, inputs: passed.append(len(inputs[0])))
    x = network.prepare(torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)))
    outputs, expected = network.outputs(x), whole.outputs(x)
    assert sum(passed) == n
    assert max(passed) <= 5
    assert outputs.features is not None
    assert expected.features is not None
    torch.testing.assert_close(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.features, expected.features)
    for one in (outputs, expected):
        nn.functional.cross_entropy(one.logits, torch.zeros(n, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    for mine, others in zip(network.module.parameters(), whole.module.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, others.grad)


def test_more_samples_go_forward_at_a_time_where_each_makes_less(image_recipe: Recipe) -> None:
    narrow, wide = (Network(replace(image_recipe, options={"width": width})) for width in (8, 16))
    assert narrow.samples_together == 2 * wide.samples_together
