"""A model as the rest of core sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from weir.core.network import Network
from weir.types import Recipe

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
