"""A small model that keeps every trace a step can leave, and the samples it learns."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from weir import config, folder
from weir.core import BurnIn, burn_in
from weir.trainer import initialise
from weir.types import InputSpec, Recipe

CLASSES = 3
FEATURES = 6


def noisy(inputs: InputSpec) -> nn.Module:
    """Batch norm that keeps running statistics, and dropout."""
    return nn.Sequential(
        nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, inputs.classes)
    )


def samples(n: int, *, seed: int, wrong: float = 0.0) -> tuple[Tensor, Tensor]:
    """n samples of overlapping classes, about a share ``wrong`` of them with a wrong label."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=generator)
    centres = torch.full((CLASSES, FEATURES), 0.3)
    for label in range(CLASSES):
        centres[label, 2 * label : 2 * label + 2] = 0.7
    x = (centres[y] + 0.12 * torch.randn(n, FEATURES, generator=generator)).clamp(0, 1)
    flipped = torch.rand(n, generator=generator) < wrong
    return x, torch.where(flipped, (y + 1) % CLASSES, y)


NOISY = Recipe(f"{__name__}:noisy", InputSpec((FEATURES,), CLASSES, 0.0, 1.0))


def burned_in(place: Path, environment: Mapping[str, str], recipe: Recipe = NOISY) -> None:
    """Make ``place`` a data folder with this model in its first checkpoint, and an empty log."""
    now = time.time()  # an old checkpoint would be dropped for its age
    with patch.dict(os.environ, environment):
        settings = config.load(data=place)
    engine = burn_in(recipe, settings.engine(), *samples(120, seed=10), plan=BurnIn(epochs=8, batch=20))
    engine.set_probe(*samples(300, seed=11), created_at=now, source="tests")
    assert engine.unarmed_because is None
    with folder.stores(settings) as stores:
        initialise(stores, engine, at=now)
