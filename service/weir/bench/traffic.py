"""Synthetic traffic, and engines that have learned it: what the measurements of speed run on."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from weir import __version__
from weir.core import BurnIn, Engine, EngineConfig, burn_in
from weir.core.vaccine import Poisoner
from weir.types import GuardMode, InputSpec, Recipe, SampleRef, Step

INPUTS = InputSpec((3, 32, 32), 10, -8.0, 8.0)
CONTRAST = 0.12  # of the blots, in standard deviations of the noise
BURN_IN = 1_000  # samples
PLAN = BurnIn(epochs=6, batch=50, lr=0.1)  # the classes are told apart after it, mostly
RATES = {"cnn": 0.03}  # without a norm 0.1 is too fast: some collapse, and what guarding a dead model costs says little


def recipe(model: str, width: int, norm: str) -> Recipe:
    """A model for 32×32 images in colour; only resnet18 has a norm to choose."""
    return Recipe(model, INPUTS, {"width": width} | ({"norm": norm} if model == "resnet18" else {}))


def samples(n: int, generator: torch.Generator, inputs: InputSpec = INPUTS) -> tuple[Tensor, Tensor]:
    """n images of Gaussian noise over their class's blots; x (n, *shape) float32, y (n,).

    Smaller images have a stronger contrast, so that their classes are as far apart.
    """
    y = torch.randint(inputs.classes, (n,), generator=generator)
    coarse = torch.randn(inputs.classes, inputs.shape[0], 4, 4, generator=torch.Generator().manual_seed(0))
    patterns = nn.functional.interpolate(coarse, size=inputs.shape[1:], mode="bilinear")
    contrast = CONTRAST * math.sqrt(math.prod(INPUTS.shape) / math.prod(inputs.shape))
    return torch.randn(n, *inputs.shape, generator=generator) + contrast * patterns[y], y


def step(number: int, x: Tensor, y: Tensor, producers: Sequence[str] = ("bench",)) -> Step:
    """The samples as one step of these producers, who take turns."""
    refs = [SampleRef(f"bench{number}", index) for index in range(len(y))]
    return Step(number, x, y, refs, [producers[index % len(producers)] for index in range(len(y))])


class Maker(Protocol):
    """Makes engines that begin where burn-in ended."""

    def __call__(self, chosen: EngineConfig, *, poisoner: Poisoner | None = None) -> Engine:
        """An engine of this configuration."""


def burned_in(model: Recipe, config: EngineConfig, *, probe: int, seed: int) -> Maker:
    """Learn the traffic once; gives engines of any configuration that begin there.

    A ``probe`` of nought leaves the probe set out; an engine whose guard is off would only pay for reports on it.
    """
    generator = torch.Generator().manual_seed(seed)
    plan = replace(PLAN, lr=RATES.get(model.model, PLAN.lr))
    state = burn_in(model, config, *samples(BURN_IN, generator, model.inputs), plan=plan).state()
    trusted = samples(probe, generator, model.inputs) if probe else None

    def engine(chosen: EngineConfig, *, poisoner: Poisoner | None = None) -> Engine:
        made = Engine(model, chosen, poisoner=poisoner)
        made.load_state(state)
        if trusted is not None and chosen.guard.mode is not GuardMode.OFF:
            made.set_probe(*trusted, created_at=0.0, source="bench")
        return made

    return engine


def vaccinated(make: Maker, config: EngineConfig, poisoner: Poisoner, first: Step) -> Maker:
    """Gives engines that have made their first step, and with it their vaccine: that takes as long as many others."""
    pioneer = make(config, poisoner=poisoner)
    pioneer.process(first)
    state = pioneer.state()

    def engine(chosen: EngineConfig, *, poisoner: Poisoner | None = None) -> Engine:
        made = Engine(pioneer.recipe, chosen, poisoner=poisoner)
        made.load_state(state)
        return made

    return engine


def hardware(device: str) -> dict[str, str]:
    """The machine in words."""
    if torch.device(device).type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {"device": f"{model or platform.processor() or platform.machine()} CPU"}


def versions(*packages: str) -> dict[str, str]:
    """Of what was measured, and of what it ran on: torch, Python and further packages."""
    others = {name: importlib.metadata.version(name) for name in packages}
    return {"weir": __version__, "torch": torch.__version__, "python": platform.python_version(), **others}


def result(benchmark: str, plan: dict[str, Any], rows: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """A measurement, JSON-ready, with everything that was set."""
    return {
        "benchmark": benchmark,
        "plan": plan,
        "rows": rows,
        "hardware": hardware(device),
        "versions": versions(),
    }


def synchronise(device: str) -> None:
    """Wait for the device: what was asked of it is done after this."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
