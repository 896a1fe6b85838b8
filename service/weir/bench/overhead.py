"""What guarding costs: guarded against unguarded updates on clean traffic, alternating in one run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weir import __version__
from weir.core import Engine, EngineConfig, GuardConfig, LearnerConfig
from weir.redteam import Cocktail
from weir.types import GuardMode, InputSpec, Recipe, SampleRef, Step, Verdict

# The unguarded update is the baseline; "dsc" is the published rule with its fixed threshold.
MODES = (GuardMode.OFF, GuardMode.WEIR, GuardMode.DSC)

TABLE_HEAD = (
    "| guard | gate | s / update | ratio (median) | lowest – highest | with its vaccine | samples forward "
    "| probe passes | touched |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: ``rounds`` times, every mode updates once on the same batch of Gaussian images."""

    model: str = "resnet18"
    width: int = 64
    norm: str = "batch"
    batch: int = 128
    probe: int = 1000
    rounds: int = 10
    warmup: int = 2
    device: str = "cpu"
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One mode: seconds per update, its ratio to the unguarded update of the same round, samples sent forward.

    ``vaccine_seconds`` is what the first update took longer than the others, which is the vaccination;
    ``amortised_ratio`` spreads it over the updates until the next one.
    """

    mode: str
    gate: bool
    median_seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    vaccine_seconds: float
    amortised_ratio: float
    forward_samples: float
    probe_passes: float
    touched_ratio: float
    vetoes: int


def measure(plan: Plan, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Run the plan; returns JSON-ready rows with hardware, versions and everything that was set."""
    torch.set_num_threads(plan.threads)
    subjects = [_Subject(plan, mode) for mode in MODES]
    generator = torch.Generator().manual_seed(plan.seed + 1)
    for number in range(plan.warmup + plan.rounds):
        step = _step(plan, number, generator)
        # The order turns with the round, so that a drift of the machine's speed favours nobody.
        for offset in range(len(subjects)):
            subjects[(number + offset) % len(subjects)].update(step, counted=number >= plan.warmup)
        progress(number + 1)
    baseline = subjects[0].seconds
    return {
        "benchmark": "overhead",
        "plan": asdict(plan),
        "rows": [asdict(subject.row(baseline)) for subject in subjects],
        "hardware": hardware(plan.device),
        "versions": {"weir": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table with what was set above it."""
    plan, machine = result["plan"], result["hardware"]
    model = f"{plan['model']} width {plan['width']}, norm {plan['norm']}, batch {plan['batch']}"
    traffic = f"probe set {plan['probe']}, {plan['rounds']} rounds, seed {plan['seed']}"
    where = f"{machine['device']}, {plan['threads']} threads, torch {result['versions']['torch']}"
    rows = [
        f"| {row['mode']} | {'on' if row['gate'] else 'off'} | {row['median_seconds']:.3f} | {row['ratio']:.2f} "
        f"| {row['ratio_low']:.2f} – {row['ratio_high']:.2f} | {row['amortised_ratio']:.2f} "
        f"| {row['forward_samples']:.0f} | {row['probe_passes']:.2f} | {row['touched_ratio']:.1%} |"
        for row in result["rows"]
    ]
    return "\n".join([f"{model}, {traffic}, {where}", "", *TABLE_HEAD, *rows])


def hardware(device: str) -> dict[str, str]:
    """The machine in words."""
    if torch.device(device).type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {"device": f"{model or platform.processor() or platform.machine()} CPU"}


class _Subject:
    """One engine in one mode, with a clock around it and a counter of what it sends forward."""

    def __init__(self, plan: Plan, mode: GuardMode) -> None:
        config = EngineConfig(
            learner=LearnerConfig(lr=0.01, momentum=0.9), guard=GuardConfig(mode=mode), device=plan.device
        )
        options: dict[str, Any] = {"width": plan.width}
        if plan.model == "resnet18":
            options["norm"] = plan.norm
        recipe = Recipe(plan.model, InputSpec((3, 32, 32), 10), options)
        self.mode = mode
        self.seconds: list[float] = []
        self._plan = plan
        self._engine = Engine(recipe, config, poisoner=Cocktail())
        self._first_seconds: float | None = None
        self._forward = 0
        self._touched = self._vetoes = 0
        generator = torch.Generator().manual_seed(plan.seed)
        if mode is GuardMode.WEIR:  # the others would only pay for reports on it
            self._engine.set_probe(*_samples(plan.probe, generator), created_at=0.0, source="bench")
        self._move_on(generator)

        def count(
            module: nn.Module, inputs: tuple[Tensor, ...]
        ) -> None:  # no method: copies of the model would copy me
            self._forward += len(inputs[0])

        self._engine.network.module.register_forward_pre_hook(count)

    def update(self, step: Step, *, counted: bool) -> None:
        """Process one step; only counted ones are remembered."""
        forward = self._forward
        _synchronise(self._plan.device)
        start = time.perf_counter()
        report = self._engine.process(step)
        _synchronise(self._plan.device)
        seconds = time.perf_counter() - start
        if self._first_seconds is None:
            self._first_seconds = seconds
        if not counted:
            self._forward = forward
            return
        self.seconds.append(seconds)
        self._touched += len(step) - report.counts[Verdict.ACCEPT]
        self._vetoes += report.vetoed

    def row(self, baseline: list[float]) -> Row:
        """What was measured, against the baseline's seconds in the same rounds."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds, baseline, strict=True)]
        forward = self._forward / len(self.seconds)
        probed = forward - self._plan.batch * self._passes_over_batch
        ratio, config = statistics.median(ratios), self._engine.config.guard
        vaccine = max(0.0, (self._first_seconds or 0.0) - max(self.seconds)) if self.mode is GuardMode.WEIR else 0.0
        return Row(
            mode=self.mode.value,
            gate=self.mode is GuardMode.WEIR and self._engine.config.gate.enabled,
            median_seconds=statistics.median(self.seconds),
            ratio=ratio,
            ratio_low=min(ratios),
            ratio_high=max(ratios),
            vaccine_seconds=vaccine,
            amortised_ratio=ratio + vaccine / config.vaccine_refresh / statistics.median(baseline),
            forward_samples=forward,
            probe_passes=max(0.0, probed) / self._plan.probe,
            touched_ratio=self._touched / (len(self.seconds) * self._plan.batch),
            vetoes=self._vetoes,
        )

    @property
    def _passes_over_batch(self) -> int:
        """Scoring and training; the snapshot as well when the guard measures discrepancy."""
        return 2 if self.mode is GuardMode.OFF else 3

    def _move_on(self, generator: torch.Generator) -> None:
        """The anchor is the fresh model; a few unguarded updates give it a present to differ from."""
        self._engine.set_anchor()
        mode = self._engine.mode
        self._engine.set_mode(GuardMode.OFF)
        for number in range(2):
            self._engine.process(_step(replace(self._plan, batch=32), -1 - number, generator))
        self._engine.set_mode(mode)


def _samples(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 10
    return torch.randn(n, 3, 32, 32, generator=generator) + y.view(-1, 1, 1, 1) / 10, y


def _step(plan: Plan, number: int, generator: torch.Generator) -> Step:
    x, y = _samples(plan.batch, generator)
    return Step(number, x, y, [SampleRef(f"bench{number}", i) for i in range(plan.batch)], ["bench"] * plan.batch)


def _synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
