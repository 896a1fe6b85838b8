"""What is random in a model comes from its seed alone, whoever else draws in the same process."""

from __future__ import annotations

import threading

import torch
from torch import nn

from weir.core.chance import seeded
from weir.core.config import LearnerConfig
from weir.core.learner import Learner
from weir.core.network import Network
from weir.core.task import Classification
from weir.types import InputSpec, Recipe


def dropped(inputs: InputSpec) -> nn.Module:
    layers = [layer for _ in range(6) for layer in (nn.Linear(32, 32), nn.Dropout(0.5))]
    return nn.Sequential(*layers, nn.Linear(32, inputs.classes))


def test_draws_repeat_and_leave_the_running_generator_alone() -> None:
    before = torch.get_rng_state()
    with seeded(7):
        first = torch.rand(3)
    with seeded(7):
        assert torch.equal(torch.rand(3), first)
    with seeded(8):
        assert not torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_learners_in_one_process_do_not_draw_from_each_other() -> None:
    """A replay runs beside the learner: neither may change what the other's dropout drops."""
    recipe = Recipe(f"{__name__}:dropped", InputSpec((32,), 2))
    x, y = torch.rand(64, 32, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 2

    def learn() -> dict[str, torch.Tensor]:
        network = Network(recipe, seed=1)
        learner = Learner(network, Classification(), LearnerConfig(lr=0.1))
        for step in range(300):
            learner.step(x, y, seed=step)
        return network.snapshot()

    alone = learn()
    beside: list[dict[str, torch.Tensor]] = []
    threads = [threading.Thread(target=lambda: beside.append(learn())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(beside) == 2
    for weights in beside:
        assert all(torch.equal(weights[name], alone[name]) for name in alone)
