"""Supervised training before the stream opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from weir.core import BurnIn, Engine, burn_in

if TYPE_CHECKING:
    from tests.core.conftest import World


def train(world: World, *, n: int = 120, **plan: int) -> Engine:
    return burn_in(world.recipe, world.config(), *world.samples(n, seed=1), plan=BurnIn(**plan))


def test_the_model_learns_and_its_half_way_self_becomes_the_anchor(world: World) -> None:
    x, y = world.samples(300, seed=2)
    engine = train(world, epochs=10, batch=20)
    learned = float((engine.predict(x).argmax(1) == y).float().mean())
    untrained = float((Engine(world.recipe, world.config()).predict(x).argmax(1) == y).float().mean())
    assert learned > 0.8 > untrained
    report = engine.process(world.step(1))
    assert (report.lag, engine.updates) == (1, 1)
    engine.set_probe(*world.samples(420, seed=11), created_at=0.0, source="tests")
    discrepancies = [v.discrepancy for v in engine.process(world.step(2)).verdicts]
    assert all(d is not None and d > 0 for d in discrepancies)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_generator_alone(noisy_world: World) -> None:
    state = torch.get_rng_state()
    one, other = (train(noisy_world, epochs=3, batch=20).weights() for _ in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n", [41, 61, 121])
def test_a_sample_left_over_is_learned_with_the_others(noisy_world: World, n: int) -> None:
    """Batch norm cannot learn from a batch of one."""
    assert train(noisy_world, n=n, epochs=2, batch=20).unarmed_because == "there is no probe set"


def test_progress_is_told_after_every_pass(world: World) -> None:
    told: list[tuple[int, int, float]] = []
    burn_in(
        world.recipe,
        world.config(),
        *world.samples(60, seed=1),
        plan=BurnIn(epochs=6, batch=10),
        progress=lambda *now: told.append(now),
    )
    assert [(epoch, epochs) for epoch, epochs, _ in told] == [(n, 6) for n in range(1, 7)]
    assert told[-1][2] < told[0][2]


def test_the_shortest_burn_in_has_an_anchor_too(world: World) -> None:
    engine = train(world, n=10, epochs=1, batch=20)
    assert engine.process(world.step(1)).lag == 1
