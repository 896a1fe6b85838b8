"""Supervised training before the stream opens, which also gives the guard its first historical snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weir.core.chance import seeded
from weir.core.config import EngineConfig, Tunables, tunable
from weir.core.engine import Engine
from weir.types import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnIn(Tunables):
    """How long and how fast to train before the stream opens."""

    epochs: int = tunable(20, "passes over the burn-in samples", low=1)
    batch: int = tunable(50, "most samples per burn-in update", low=1)
    lr: float = tunable(0.1, "peak learning rate of burn-in (one cycle)", low=0.0)
    momentum: float = tunable(0.9, "momentum of burn-in", low=0.0, high=1.0)
    weight_decay: float = tunable(1e-4, "L2 penalty of burn-in", low=0.0)


def burn_in(
    recipe: Recipe,
    config: EngineConfig,
    x: Tensor,
    y: Tensor,
    *,
    plan: BurnIn,
    progress: Callable[[int, int, float], None] = lambda epoch, epochs, loss: None,
) -> Engine:
    """Train a model on trusted samples ``x`` (n, *shape), ``y`` (n,), and return an engine that holds it.

    The model half-way through becomes the anchor: the memorization discrepancy needs a past that differs from
    the present. ``progress(epoch, epochs, loss)`` is called after every pass. Raises ModelNotBuilt.
    """
    engine = Engine(recipe, config)
    network, task = engine.network, engine.task
    optimizer = torch.optim.SGD(
        network.module.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    rounds = -(-len(y) // plan.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.lr, total_steps=plan.epochs * rounds)
    generator = torch.Generator().manual_seed(config.seed)
    for epoch in range(plan.epochs):
        total = 0.0
        with seeded(config.seed * 100_003 + epoch, network.device), network.training(freeze_norm=False):
            order = torch.randperm(len(y), generator=generator)
            for rows in order.tensor_split(rounds):  # evenly: batch norm cannot learn from a single left-over sample
                optimizer.zero_grad(set_to_none=True)
                loss = task.loss(network.module(network.prepare(x[rows])), y[rows].to(network.device)).mean()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(rows)
        if epoch + 1 == max(1, plan.epochs // 2):
            engine.set_anchor()
        progress(epoch + 1, plan.epochs, total / len(y))
    return engine
