"""What guarding costs: guarded against unguarded updates on clean traffic, alternating in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from weir.bench import traffic
from weir.core import Engine, EngineConfig, GuardConfig, LearnerConfig, SnapshotConfig
from weir.core.models import build
from weir.redteam import Cocktail
from weir.types import Arithmetic, GuardMode, Step, StepReport, Verdict

LEARNER = LearnerConfig()
PROBED = 500  # fresh samples that say what burn-in taught: guarding a model that learned nothing costs something else
BACKWARD = 2  # a backward pass counts as two forward passes

TABLE_HEAD = (
    "| update | s (median) | ratio, amortised | 10 – 90 % of rounds | with its vaccine | floor, s | samples forward "
    "| probe passes | gate tests | touched |",
    "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: ``rounds`` times, every subject updates once on the same batch of Gaussian images.

    Fewer rounds than these see little but the first updates after burn-in, when the trusted evidence still moves.
    The samples of a batch come from so many ``producers`` in turn. ``float32`` adds a guard whose anchor and glances
    compute in it, where by default they may compute in bfloat16.
    """

    model: str = "resnet18"
    width: int = 64
    norm: str = "batch"
    freeze_norm: bool = True
    batch: int = 128
    producers: int = 1
    probe: int = 1000
    rounds: int = 32
    warmup: int = 3
    device: str = "cpu"
    threads: int = 2
    seed: int = 0
    float32: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One subject: seconds per update and their ratio to the plain update, samples sent forward, tests of the gate.

    ``ratio`` is of the seconds of all rounds, so that what is done now and then is in it. ``vaccine_seconds`` is what
    the first update took longer than the median one; ``amortised_ratio`` spreads it over the updates until the next
    vaccination. ``floor_seconds`` is what the arithmetic of the passes would take at the machine's measured peak in
    float32, whatever the anchor computes in.
    """

    subject: str
    median_seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    vaccine_seconds: float
    amortised_ratio: float
    floor_seconds: float
    forward_samples: float
    probe_passes: float
    gate_tests: float
    touched_ratio: float


def measure(plan: Plan, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Run the plan; returns JSON-ready rows with hardware, versions and everything that was set."""
    torch.set_num_threads(plan.threads)
    learner = replace(LEARNER, freeze_norm=plan.freeze_norm)
    config = EngineConfig(learner=learner, device=plan.device, step_size=plan.batch)
    model = traffic.recipe(plan.model, plan.width, plan.norm)
    make = traffic.burned_in(model, config, probe=plan.probe, seed=plan.seed)
    off = make(replace(config, guard=GuardConfig(mode=GuardMode.OFF)))
    x, y = traffic.samples(PROBED, torch.Generator().manual_seed(plan.seed + 2))
    learned = float((off.predict(x).argmax(1) == y).float().mean())
    plain = Plain(off, config.learner)
    subjects = [
        Timed("plain", plain, plan),
        Timed("off", Guarded(off), plan),
        Timed("weir", Guarded(make(config, poisoner=Cocktail())), plan),
    ]
    if plan.float32:
        exact = replace(config, snapshots=SnapshotConfig(arithmetic=Arithmetic.FLOAT32))
        subjects.append(Timed("weir, all in float32", Guarded(make(exact, poisoner=Cocktail())), plan))
    generator = torch.Generator().manual_seed(plan.seed + 1)
    senders = [f"producer {number}" for number in range(plan.producers)]
    for number in range(plan.warmup + plan.rounds):
        step = traffic.step(number, *traffic.samples(plan.batch, generator), senders)
        # The order turns with the round, so that a drift of the machine's speed favours nobody.
        for offset in range(len(subjects)):
            subjects[(number + offset) % len(subjects)].update(step, counted=number >= plan.warmup)
        progress(number + 1)
    per_sample, peak = flops_forward(plain.module, step.x) / plan.batch, peak_flops(plan.device)
    rows = [asdict(subject.row(subjects[0], per_sample, peak)) for subject in subjects]
    found = {"anchor": off.arithmetic.value, "accuracy": learned}
    return traffic.result("overhead", asdict(plan) | found, rows, plan.device)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table with what was set above it."""
    plan, machine = result["plan"], result["hardware"]
    kept = "frozen" if plan["freeze_norm"] else "in train mode"
    norm = "no norm" if plan["model"] == "cnn" or plan["norm"] == "none" else f"norm {plan['norm']} {kept}"
    senders = "one producer" if plan["producers"] == 1 else f"{plan['producers']} producers"
    model = f"{plan['model']} width {plan['width']}, {norm}, {plan['accuracy']:.0%} right at the start"
    sent = f"batch {plan['batch']} of {senders}"
    scored = f"anchor and glances in {plan['anchor']}"
    given = f"probe set {plan['probe']}, gate and vaccine on, {scored}, {plan['rounds']} rounds"
    where = f"seed {plan['seed']}, {machine['device']}, {plan['threads']} threads, torch {result['versions']['torch']}"
    rows = [
        f"| {row['subject']} | {row['median_seconds']:.3f} | {row['ratio']:.2f} "
        f"| {row['ratio_low']:.2f} – {row['ratio_high']:.2f} | {row['amortised_ratio']:.2f} "
        f"| {row['floor_seconds']:.3f} | {row['forward_samples']:.0f} | {row['probe_passes']:.3f} "
        f"| {row['gate_tests']:.2f} | {row['touched_ratio']:.1%} |"
        for row in result["rows"]
    ]
    return "\n".join([f"{model}, {sent}, {given}, {where}", "", *TABLE_HEAD, *rows])


class Subject(Protocol):
    """What is timed: something that updates on a step."""

    module: nn.Module

    def update(self, step: Step) -> StepReport | None:
        """Update once."""


class Plain:
    """The update as anyone would write it, without Weir: forward, loss, backward, ``torch.optim.SGD``."""

    def __init__(self, like: Engine, config: LearnerConfig) -> None:
        """Start from an engine's weights."""
        self.module = build(like.recipe, device=like.network.device).train(not config.freeze_norm)
        self.module.load_state_dict(dict(like.weights()))
        self._device = like.network.device
        self._optimizer = torch.optim.SGD(self.module.parameters(), lr=config.lr, momentum=config.momentum)

    def update(self, step: Step) -> None:
        """Update once."""
        self._optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.module(step.x.to(self._device)), step.y.to(self._device))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


class Guarded:
    """An engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.module = engine.network.module

    def update(self, step: Step) -> StepReport:
        """Update once."""
        return self._engine.process(step)


class Timed:
    """A subject with a clock around it and a counter of what it sends forward."""

    def __init__(self, name: str, subject: Subject, plan: Plan) -> None:
        self._name = name
        self._subject = subject
        self._plan = plan
        self.seconds: list[float] = []
        self._first_seconds: float | None = None
        self._counting = False
        self._forward = 0
        self._reports: list[StepReport] = []

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # No method: copies of the model would copy me.
            self._forward += self._counting * len(inputs[0])

        subject.module.register_forward_pre_hook(count)

    def update(self, step: Step, *, counted: bool) -> None:
        """Update on one step; only counted ones are remembered."""
        self._counting = counted
        traffic.synchronise(self._plan.device)
        start = time.perf_counter()
        report = self._subject.update(step)
        traffic.synchronise(self._plan.device)
        seconds = time.perf_counter() - start
        self._counting = False
        if self._first_seconds is None:
            self._first_seconds = seconds
        if counted:
            self.seconds.append(seconds)
            self._reports += [report] if report else []

    def row(self, baseline: Timed, flops: float, peak: float) -> Row:
        """What was measured, against the baseline's seconds in the same rounds; ``flops`` are of one sample forward."""
        rounds, batch = len(self.seconds), self._plan.batch
        by_round = sorted(mine / theirs for mine, theirs in zip(self.seconds, baseline.seconds, strict=True))
        ratio, median = sum(self.seconds) / sum(baseline.seconds), statistics.median(self.seconds)
        vaccinated = any(report.vaccine_age is not None for report in self._reports)
        vaccine = max(0.0, (self._first_seconds or 0.0) - median) if vaccinated else 0.0
        passes = 2 if self._reports and self._reports[0].armed else 1  # over the batch: now, and the snapshot
        probed = 0.0 if self._plan.freeze_norm is False else max(0.0, self._forward / rounds - batch * passes)
        return Row(
            subject=self._name,
            median_seconds=median,
            ratio=ratio,
            ratio_low=_quantile(by_round, 0.1),
            ratio_high=_quantile(by_round, 0.9),
            vaccine_seconds=vaccine,
            amortised_ratio=ratio + vaccine / GuardConfig().vaccine_refresh / statistics.mean(baseline.seconds),
            floor_seconds=(self._forward / rounds + BACKWARD * batch) * flops / peak,
            forward_samples=self._forward / rounds,
            probe_passes=probed / self._plan.probe,
            gate_tests=sum(r.gate is not None and r.gate.statistic is not None for r in self._reports) / rounds,
            touched_ratio=sum(len(r.verdicts) - r.counts[Verdict.ACCEPT] for r in self._reports) / (rounds * batch),
        )


def flops_forward(module: nn.Module, x: Tensor) -> float:
    """Floating-point operations of one forward pass, as torch counts them."""
    device = next(module.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x.to(device))
    return float(counter.get_total_flops())


def peak_flops(device: str, *, tries: int = 5) -> float:
    """The most floating-point operations a second that a product of matrices or a convolution reaches here, float32.

    Two libraries compute them on a CPU, and which is the faster depends on who made the processor.
    """
    size, images, channels, side = 2048, 128, 64, 32
    square = torch.randn(size, size, device=device)
    x = torch.randn(images, channels, side, side, device=device)
    kernel = torch.randn(channels, channels, 3, 3, device=device)
    product = 2 * size**3 / _fastest(lambda: square @ square, device, tries)
    convolution = (
        2 * x.numel() * kernel[0].numel() / _fastest(lambda: nn.functional.conv2d(x, kernel, padding=1), device, tries)
    )
    return max(product, convolution)


def _fastest(compute: Callable[[], object], device: str, tries: int) -> float:
    """Seconds of the fastest of so many tries."""
    best = float("inf")
    for _ in range(tries):
        traffic.synchronise(device)
        start = time.perf_counter()
        compute()
        traffic.synchronise(device)
        best = min(best, time.perf_counter() - start)
    return best


def _quantile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
