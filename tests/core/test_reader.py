"""Copies of the model for readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from weir.core import Reader

if TYPE_CHECKING:
    from tests.core.conftest import World


def test_a_copy_predicts_as_the_engine_did_and_stays_as_it_was(noisy_world: World) -> None:
    engine = noisy_world.engine()
    copy = Reader(noisy_world.recipe, device="cpu").copy(engine.weights())
    x, _ = noisy_world.samples(12, seed=5)
    then = engine.predict(x)
    assert torch.equal(copy(x), then)
    weights = {name: tensor.clone() for name, tensor in copy.weights.items()}
    noisy_world.run(engine, 1, 3)
    assert not torch.equal(engine.predict(x), then)
    assert torch.equal(copy(x), then)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in copy.weights.items())


def test_a_copy_scales_bytes_and_leaves_no_gradient(world: World) -> None:
    copy = Reader(world.recipe, device="cpu").copy(world.network().snapshot())
    whole = torch.arange(12, dtype=torch.uint8).reshape(2, 6)
    assert torch.equal(copy(whole), copy(whole.float() / 255))
    assert not copy(whole).requires_grad
