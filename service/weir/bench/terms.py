"""What a run is made of besides its scenario, its guard and its seed: numbers, samples, and a burned-in model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch

from weir import __version__, datasets
from weir.bench.cache import decoded, digest, read_state, write_state
from weir.core import BurnIn, EngineConfig, GuardConfig, LearnerConfig, burn_in
from weir.datasets import Dataset
from weir.errors import InvalidSetting
from weir.types import Batch, InputSpec, Recipe, State

NORM_MODES = ("frozen", "train")


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
    attack_steps: int = 10  # sign steps of crafting a batch
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

    def __post_init__(self) -> None:
        if self.norm_mode not in NORM_MODES:
            raise InvalidSetting("norm_mode", self.norm_mode, " or ".join(NORM_MODES))

    def to_values(self) -> dict[str, Any]:
        """The terms as JSON-ready values."""
        return asdict(self) | {"options": dict(self.options)}

    def config(self, seed: int) -> EngineConfig:
        """The engine's configuration before a guard of the harness changes it."""
        return EngineConfig(
            learner=LearnerConfig(lr=self.lr, momentum=self.momentum, freeze_norm=self.norm_mode == "frozen"),
            guard=GuardConfig(sample_rate=self.sample_rate),
            step_size=1,  # every turn of a stream is a whole step
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
    trigger=100,
    attack_steps=2,  # as the released code of Pang et al.
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


def changed(terms: Terms, assignments: Iterable[str]) -> Terms:
    """The terms with ``name=value`` set, each value of its field's own type (options: JSON; none: unset).

    Raises InvalidSetting.
    """
    values = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in _READ:
            raise InvalidSetting("set", assignment, f"name=value, with one of the names {', '.join(_READ)}")
        kind, read = _READ[name]
        try:
            values[name] = read(text)
        except ValueError:
            raise InvalidSetting(name, text, kind) from None
    return replace(terms, **values)


def _mapping(text: str) -> Any:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(text)
    return found


def _unset(text: str) -> float | None:
    return None if text == "none" else float(text)


_KINDS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("a whole number", int),
    float: ("a number", float),
    str: ("a word", str),
    float | None: ("a number or none", _unset),
    Mapping[str, Any]: ("a JSON object", _mapping),
}
_READ = {name: _KINDS[kind] for name, kind in get_type_hints(Terms).items()}


@dataclass(frozen=True, slots=True)
class Material:
    """Who has which samples, x float32 in [0, 1]; all parts are disjoint."""

    recipe: Recipe
    probe: Dataset
    test: Dataset
    validation: Batch
    ammunition: Batch
    honest: Dataset


def material(terms: Terms, seed: int, data: Path | None, cache: Path | None = None) -> tuple[Material, Dataset]:
    """Deal a data set out with a seed: what a run uses, and the burn-in samples."""
    parts = _load(terms.dataset, data, cache).split(*_sizes(terms), seed=seed)
    burn, probe, test, validation, ammunition, honest = map(_scaled, parts)
    recipe = Recipe(terms.model, InputSpec(tuple(burn.x.shape[1:]), burn.classes, 0.0, 1.0), dict(terms.options))
    wanted, owned = (Batch(part.x, part.y) for part in (validation, ammunition))
    return Material(recipe, probe, test, wanted, owned, honest), burn


def burned_in(terms: Terms, given: Material, burn: Dataset, seed: int, cache: Path | None) -> State:
    """The engine's state after burn-in; read from ``cache`` where one of the same making is there, else put there."""
    plan = BurnIn(epochs=terms.burn_in_epochs, batch=terms.batch, lr=terms.burn_in_lr)
    made_of = {
        "dataset": terms.dataset,
        "samples": _sizes(terms),
        "recipe": given.recipe.to_values(),
        "plan": asdict(plan),
        "seed": seed,
        "weir": __version__,
        "torch": torch.__version__,
        "device": terms.device,
    }
    file = cache / f"{digest(made_of)}.npz" if cache else None
    if file and file.exists():
        return read_state(file)
    state = burn_in(given.recipe, terms.config(seed), burn.x, burn.y, plan=plan).state()
    if file:
        write_state(file, state)
    return state


def _sizes(terms: Terms) -> list[int]:
    return [terms.burn_in, terms.probe, terms.test, terms.validation, terms.ammunition, terms.pool]


def _load(name: str, data: Path | None, cache: Path | None) -> Dataset:
    if name == "digits":
        return datasets.load("digits")
    if name not in PRESETS:
        raise InvalidSetting("dataset", name, ", ".join(PRESETS))
    if data is None:
        raise InvalidSetting("data", None, f"the folder that holds {name}-train.parquet")
    return decoded(data / f"{name}-train.parquet", cache)


def _scaled(part: Dataset) -> Dataset:
    """Numbers in [0, 1], as an attacker moves them."""
    return part if part.x.is_floating_point() else replace(part, x=part.x.float() / 255)
