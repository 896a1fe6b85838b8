"""Fixed grids, small enough for a laptop and for CI, and the order in which cells run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from weir.bench.harness import Cell
from weir.bench.scenario import SCENARIOS
from weir.bench.terms import PRESETS, Terms

CORE = ("none", "dsc-calibrated", "weir")
DATASETS = ("digits", "mnist", "cifar10")  # cheapest first, as MODELS
MODELS = ("mlp", "cnn", "resnet18")
HONEST = ("clean", "skewed", "noisy_labels", "drift_gradual", "drift_sudden", "drift_crowd")
ATTACKS = tuple(name for name in SCENARIOS if name not in HONEST)

LEARNING = PRESETS["digits"]  # a model with much to learn
SETTLED = replace(LEARNING, burn_in_epochs=10, burn_in_lr=0.1, lr=0.05, strikes=4)  # no gain left, and quick to harm
_NARROW = {"width": 8, "pool": False}
_RESNET = replace(LEARNING, model="resnet18", options=_NARROW, attack_steps=2, attack=10, after=20, test=300)
FROZEN = replace(_RESNET, lr=0.003)  # the attack feels frozen statistics most: a small rate will do
TRAINED = replace(_RESNET, norm_mode="train")
UNNORMED = replace(_RESNET, options=_NARROW | {"norm": "none"}, burn_in_epochs=10)
RESNETS = (FROZEN, TRAINED, UNNORMED)


def small(scenarios: Sequence[str], guards: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Digits with a perceptron, learning and settled, and with a narrow ResNet under each treatment of batch norm."""
    settled = [name for name in scenarios if name in ATTACKS]
    return [
        *product(scenarios, guards, seeds, LEARNING),
        *product(settled, guards, seeds, SETTLED),
        *(cell for terms in RESNETS for cell in product(scenarios, guards, seeds[:1], terms)),
    ]


def ci() -> list[Cell]:
    """What a change of the guard must not break: attacks that bite, clean and drifting streams."""
    return [
        *product(("clean", "accumulative", "backdoor", "drift_sudden"), CORE, (0, 1), LEARNING),
        *product(("adaptive",), CORE, (0, 1, 2), LEARNING),
        *product(("accumulative", "label_flip"), CORE, (0, 1), SETTLED),
        # It gains 8 points: 5 % of them, a bar, are one test sample of a seed, and with three seeds chance.
        *product(("accumulative",), CORE, range(6), FROZEN),
    ]


def product(scenarios: Iterable[str], guards: Sequence[str], seeds: Sequence[int], terms: Terms) -> Iterator[Cell]:
    """Every guard on every stream; the guards of a stream follow each other, for they share its unguarded run."""
    return (Cell(scenario, guard, seed, terms) for scenario in scenarios for seed in seeds for guard in guards)


def ordered(cells: Iterable[Cell]) -> list[Cell]:
    """The cells, cheapest first: the core's guards before others, small data sets and models before large ones."""
    return sorted(cells, key=lambda cell: (cell.guard not in CORE, _rank(DATASETS, cell.terms.dataset), _size(cell)))


def _size(cell: Cell) -> int:
    return _rank(MODELS, cell.terms.model)


def _rank(known: Sequence[str], name: str) -> int:
    return known.index(name) if name in known else len(known)
