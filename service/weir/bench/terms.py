"""What a run is made of besides its scenario, its guard and its seed: numbers, samples, and a burned-in model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weir import __version__, datasets
from weir.core import BurnIn, EngineConfig, GuardConfig, LearnerConfig, burn_in
from weir.datasets import Dataset
from weir.errors import InvalidSetting
from weir.types import Batch, InputSpec, Recipe, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Sizes are in samples, ``before`` to ``after`` in batches; what the sizes leave is the honest pool.

    The pool is dealt anew each time it is used up. Unset ``epsilon`` and ``fraction`` are the scenario's own.
    """

    dataset: str = "digits"
    model: str = "mlp"
    options: Mapping[str, Any] = field(default_factory=lambda: {"hidden": 64})
    burn_in: int = 500
    burn_in_epochs: int = 2
    burn_in_lr: float = 0.05
    probe: int = 200
    test: int = 400
    validation: int = 72  # what the attacker wants to spoil
    ammunition: int = 125  # what it draws its batches from
    pool: int = 500
    batch: int = 25
    trigger: int = 100
    before: int = 10
    attack: int = 20
    strikes: int = 1  # trigger batches, each crafted anew
    after: int = 50
    lr: float = 0.01
    momentum: float = 0.9
    sample_rate: float = 0.02
    norm_mode: str = "frozen"
    epsilon: float | None = None
    fraction: float | None = None
    penalty: float = 1.0  # what a guard-aware attack pays for the suspicion it raises
    device: str = "cpu"

    def to_values(self) -> dict[str, Any]:
        """The terms as JSON-ready values."""
        return asdict(self) | {"options": dict(self.options)}

    def config(self, seed: int) -> EngineConfig:
        """The engine's configuration before a guard of the harness changes it."""
        return EngineConfig(
            learner=LearnerConfig(lr=self.lr, momentum=self.momentum, freeze_norm=self.norm_mode == "frozen"),
            guard=GuardConfig(sample_rate=self.sample_rate),
            device=self.device,
            seed=seed,
        )


_IMAGES = Terms(
    model="cnn",
    options={"width": 16},
    burn_in=1000,
    burn_in_epochs=3,
    probe=1000,
    test=2000,
    validation=400,
    ammunition=2000,
    pool=10_000,
    batch=100,
    trigger=400,
    sample_rate=0.01,
)
PRESETS = {
    "digits": Terms(),
    "mnist": Terms(**_IMAGES.to_values() | {"dataset": "mnist"}),
    "cifar10": Terms(
        **_IMAGES.to_values()
        | {"dataset": "cifar10", "model": "resnet18", "options": {"width": 16}, "burn_in": 10_000, "burn_in_epochs": 8}
    ),
}


@dataclass(frozen=True, slots=True)
class Material:
    """Who has which samples, x float32 in [0, 1]; all parts are disjoint."""

    recipe: Recipe
    probe: Dataset
    test: Dataset
    validation: Batch
    ammunition: Batch
    honest: Dataset


def material(terms: Terms, seed: int, data: Path | None) -> tuple[Material, Dataset]:
    """Deal a data set out with a seed: what a run uses, and the burn-in samples."""
    everything = _load(terms.dataset, data)
    sizes = (terms.burn_in, terms.probe, terms.test, terms.validation, terms.ammunition, terms.pool)
    burn, probe, test, validation, ammunition, honest = everything.split(*sizes, seed=seed)
    recipe = Recipe(terms.model, InputSpec(tuple(burn.x.shape[1:]), burn.classes, 0.0, 1.0), dict(terms.options))
    wanted, owned = (Batch(part.x, part.y) for part in (validation, ammunition))
    return Material(recipe, probe, test, wanted, owned, honest), burn


def burned_in(terms: Terms, given: Material, burn: Dataset, seed: int, cache: Path | None) -> State:
    """The engine's state after burn-in; read from ``cache`` where one of the same making is there, else put there."""
    plan = BurnIn(epochs=terms.burn_in_epochs, batch=terms.batch, lr=terms.burn_in_lr)
    made_of = {
        "dataset": terms.dataset,
        "samples": [getattr(terms, part) for part in ("burn_in", "probe", "test", "validation", "ammunition", "pool")],
        "recipe": given.recipe.to_values(),
        "plan": asdict(plan),
        "seed": seed,
        "weir": __version__,
        "torch": torch.__version__,
        "device": terms.device,
    }
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    file = cache / f"{name}.npz" if cache else None
    if file and file.exists():
        return _read(file)
    state = burn_in(given.recipe, terms.config(seed), burn.x, burn.y, plan=plan).state()
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, state)
    return state


def _load(name: str, data: Path | None) -> Dataset:
    if name == "digits":
        return datasets.load("digits")
    if name not in PRESETS:
        raise InvalidSetting("dataset", name, ", ".join(PRESETS))
    if data is None:
        raise InvalidSetting("data", None, f"the folder that holds {name}-train.parquet")
    found = datasets.load(data / f"{name}-train.parquet")
    return Dataset(found.x.float() / 255, found.y, found.classes, found.name)


def _write(file: Path, state: State) -> None:
    values = np.frombuffer(json.dumps(state.values).encode(), dtype=np.uint8)
    partial = file.with_suffix(".partial.npz")  # another run may read the cache at this moment
    tensors: dict[str, Any] = {f"t/{name}": tensor.cpu().numpy() for name, tensor in state.tensors.items()}
    np.savez(partial, values=values, **tensors)
    partial.replace(file)


def _read(file: Path) -> State:
    with np.load(file, allow_pickle=False) as archive:
        tensors = {name[2:]: torch.from_numpy(archive[name]) for name in archive.files if name.startswith("t/")}
        return State(tensors, json.loads(archive["values"].tobytes()))
