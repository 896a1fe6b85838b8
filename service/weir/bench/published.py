"""Weir's guarded step against the published rule's, as it was released and as a careful rewrite of it."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from weir.bench import traffic
from weir.core import CorrectionConfig, Engine, EngineConfig, GuardConfig, LearnerConfig
from weir.core.discrepancy import kl
from weir.redteam import Cocktail
from weir.types import Step, Verdict

EPSILON, STEPS = 0.2, 10  # of the released rule, in units of x
NEVER, ALWAYS = float("inf"), -1.0  # thresholds on the mean discrepancy: it stops at once, it runs all its steps

TABLE_HEAD = (
    "| traffic | step | s (median) | times Weir's | lowest – highest | passes over the batch, backward counted twice "
    "| touched |",
    "|---|---|--:|--:|---|--:|--:|",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: ``rounds`` times in each kind of traffic, every subject steps once on the same batch."""

    model: str = "resnet18"
    width: int = 32
    norm: str = "batch"
    batch: int = 100
    probe: int = 1000
    rounds: int = 5
    warmup: int = 1
    device: str = "cpu"
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One subject on one kind of traffic: seconds a step, and how many times Weir's step of the same round it took."""

    traffic: str
    subject: str
    median_seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    passes: float
    touched_ratio: float


class Passes:
    """Counts what goes through a model, in passes over a batch: one forward, two for a whole backward, one for half."""

    def __init__(self, batch: int) -> None:
        self.count = 0.0
        self._batch = batch

    def watch(self, module: nn.Module) -> None:
        """Count the forward passes of a module."""
        batch = self._batch

        def forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.count += len(inputs[0]) / batch

        module.register_forward_pre_hook(forward)


class Rule(ABC):
    """A step of the published rule, made of passes that are counted."""

    def __init__(self, current: nn.Module, historical: nn.Module, config: LearnerConfig, passes: Passes) -> None:
        self._current = current
        self._historical = historical
        self._passes = passes
        self._optimizer = torch.optim.SGD(current.parameters(), lr=config.lr, momentum=config.momentum)
        for module in (current, historical):
            passes.watch(module)

    @abstractmethod
    def step(self, x: Tensor, y: Tensor, threshold: float) -> None:
        """Correct all of the batch until its mean discrepancy is at or under the threshold, then learn it."""

    def _learn(self, x: Tensor, y: Tensor) -> None:
        """The update in train mode."""
        self._current.train()
        self._optimizer.zero_grad()
        cross_entropy(self._current(x), y).backward()  # type: ignore[no-untyped-call]
        self._passes.count += 2
        self._optimizer.step()


class Released(Rule):
    """The step of Zhu et al. (ICML 2023) with the passes that its released code makes over the whole batch.

    One pass of the current model that nothing uses; then for each descent one of each model with a graph, and a whole
    backward pass although only x moves; four to report what became of the discrepancy; the update in train mode. That
    is 10 when the mean discrepancy is under the threshold at once, and 48 when all ten descents are made. Its loops
    over single samples in Python are left out.
    """

    def step(self, x: Tensor, y: Tensor, threshold: float) -> None:
        """Correct all of the batch until its mean discrepancy is at or under the threshold, then learn it."""
        self._current.eval()
        self._current(x)
        moved = x
        for _ in range(STEPS):
            moved = moved.detach().requires_grad_(True)
            then, now = self._historical(moved), self._current(moved)
            if float(kl(then, now).detach().mean()) <= threshold:
                break
            self._current.zero_grad()
            cross_entropy(now, y).backward()  # type: ignore[no-untyped-call]
            self._passes.count += 2
            assert moved.grad is not None
            moved = (moved - EPSILON / STEPS * moved.grad.sign()).clamp(x - EPSILON, x + EPSILON)
        moved = moved.detach()
        for module in (self._historical, self._current):
            for reported in (moved, x):
                module(reported)
        self._learn(moved, y)


class Rewritten(Rule):
    """The same rule with no pass that it does not need: 5 when it stops at once, else 3 a descent and 3 to learn."""

    def step(self, x: Tensor, y: Tensor, threshold: float) -> None:
        """Correct all of the batch until its mean discrepancy is at or under the threshold, then learn it."""
        self._current.eval()
        moved = x
        for _ in range(STEPS):
            with torch.no_grad():
                then = self._historical(moved)
            moved = moved.detach().requires_grad_(True)
            now = self._current(moved)
            if float(kl(then, now.detach()).mean()) <= threshold:
                break
            (gradient,) = torch.autograd.grad(cross_entropy(now, y), moved)
            self._passes.count += 1
            moved = (moved - EPSILON / STEPS * gradient.sign()).clamp(x - EPSILON, x + EPSILON)
        self._learn(moved.detach(), y)


class Guarded:
    """Weir's step."""

    def __init__(self, engine: Engine, passes: Passes) -> None:
        self.engine = engine
        self.touched: list[float] = []
        self._passes = passes
        passes.watch(engine.network.module)

    def update(self, step: Step) -> None:
        """Judge and learn; what it touched is remembered."""
        report = self.engine.process(step)
        self._passes.count += 2 * report.updated  # nothing goes back when all is held
        self.touched.append(1 - report.counts[Verdict.ACCEPT] / len(step.y))


class Bench:
    """The subjects on one kind of traffic."""

    def __init__(self, plan: Plan, make: traffic.Maker, config: EngineConfig) -> None:
        self._plan = plan
        self._passes = {name: Passes(plan.batch) for name in ("weir", "released", "rewritten")}
        self.weir = Guarded(make(config, poisoner=Cocktail()), self._passes["weir"])
        self._rules: dict[str, Rule] = {}
        for name, kind in (("released", Released), ("rewritten", Rewritten)):
            current, historical = (deepcopy(make(config).network.module) for _ in range(2))
            self._rules[name] = kind(current, historical, config.learner, self._passes[name])
        self._seconds: dict[str, list[float]] = {name: [] for name in self._passes}
        self._made: dict[str, list[float]] = {name: [] for name in self._passes}

    def round(self, step: Step, threshold: float, *, counted: bool) -> None:
        """Every subject once; the order turns with the step."""
        names = list(self._passes)
        for offset in range(len(names)):
            self._time(names[(step.number + offset) % len(names)], step, threshold, counted=counted)

    def rows(self, kind: str) -> list[Row]:
        """What was measured."""
        weir = self._seconds["weir"]
        rows = []
        for name, seconds in self._seconds.items():
            ratios = [theirs / ours for theirs, ours in zip(seconds, weir, strict=True)]
            rows.append(
                Row(
                    traffic=kind,
                    subject=name,
                    median_seconds=statistics.median(seconds),
                    ratio=statistics.median(ratios),
                    ratio_low=min(ratios),
                    ratio_high=max(ratios),
                    passes=statistics.mean(self._made[name]),
                    touched_ratio=statistics.mean(self.weir.touched[-len(weir) :]) if name == "weir" else 0.0,
                )
            )
        return rows

    def _time(self, name: str, step: Step, threshold: float, *, counted: bool) -> None:
        x, y = step.x.to(self._plan.device), step.y.to(self._plan.device)
        before = self._passes[name].count
        traffic.synchronise(self._plan.device)
        start = time.perf_counter()
        if name == "weir":
            self.weir.update(step)
        else:
            self._rules[name].step(x, y, threshold)
        traffic.synchronise(self._plan.device)
        if counted:
            self._seconds[name].append(time.perf_counter() - start)
            self._made[name].append(self._passes[name].count - before)


def measure(plan: Plan, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Run the plan; returns JSON-ready rows. Raises RuntimeError when a rule made other passes than it should."""
    torch.set_num_threads(plan.threads)
    config = EngineConfig(guard=GuardConfig(), step_size=plan.batch, device=plan.device)
    correcting = replace(config, correction=CorrectionConfig(enabled=True, epsilon=EPSILON, steps=STEPS))
    model = traffic.recipe(plan.model, plan.width, plan.norm)
    burned_in = traffic.burned_in(model, config, probe=plan.probe, seed=plan.seed)
    first = traffic.step(0, *traffic.samples(plan.batch, torch.Generator().manual_seed(plan.seed + 2)))
    make = traffic.vaccinated(burned_in, config, Cocktail(), first)
    rows, done = [], 1
    progress(done)
    for kind, threshold, chosen in (
        ("clean, under the rule's threshold", NEVER, config),
        ("clean, over the rule's threshold", ALWAYS, config),
        ("all poisoned, Weir corrects", ALWAYS, correcting),
    ):
        bench, generator = Bench(plan, make, chosen), torch.Generator().manual_seed(plan.seed + 1)
        for number in range(1, 1 + plan.warmup + plan.rounds):
            x, y = traffic.samples(plan.batch, generator)
            if chosen is correcting:
                x = _poisoned(bench.weir.engine, x, y)
            bench.round(traffic.step(number, x, y), threshold, counted=number > plan.warmup)
            done += 1
            progress(done)
        rows += bench.rows(kind)
    _check(rows)
    found = {"anchor": bench.weir.engine.arithmetic.value}
    return traffic.result("published", asdict(plan) | found, [asdict(row) for row in rows], plan.device)


def rounds(plan: Plan) -> int:
    """How many rounds a plan has in all, and one to be vaccinated."""
    return 1 + 3 * (plan.warmup + plan.rounds)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table with what was set above it."""
    plan, machine = result["plan"], result["hardware"]
    head = (
        f"{plan['model']} width {plan['width']}, norm {plan['norm']}, batch {plan['batch']}, probe set {plan['probe']}"
        f", Weir's anchor and glances in {plan['anchor']}, {plan['rounds']} rounds, seed {plan['seed']}"
        f", {machine['device']}, {plan['threads']} threads, torch {result['versions']['torch']}"
    )
    rows = [
        f"| {row['traffic']} | {row['subject']} | {row['median_seconds']:.3f} | {row['ratio']:.1f} "
        f"| {row['ratio_low']:.1f} – {row['ratio_high']:.1f} | {row['passes']:.1f} | {row['touched_ratio']:.0%} |"
        for row in result["rows"]
    ]
    return "\n".join([head, "", *TABLE_HEAD, *rows])


def _poisoned(engine: Engine, x: Tensor, y: Tensor) -> Tensor:
    """Every sample moved against its label by the rule's own budget, by the model that is attacked."""
    module = deepcopy(engine.network.module)
    moving = x.to(engine.network.device).requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(module(moving), y.to(moving.device)), moving)
    return (moving.detach() + EPSILON * gradient.sign()).cpu()


def _check(rows: list[Row]) -> None:
    """The rules must have made the passes that are theirs."""
    expected = {
        ("released", "clean, under the rule's threshold"): 10,
        ("rewritten", "clean, under the rule's threshold"): 5,
        ("released", "clean, over the rule's threshold"): 8 + 4 * STEPS,
        ("rewritten", "clean, over the rule's threshold"): 3 + 3 * STEPS,
    }
    for row in rows:
        wanted = expected.get((row.subject, row.traffic))
        if wanted is not None and abs(row.passes - wanted) > 1e-9:
            raise RuntimeError(f"{row.subject} on {row.traffic}: {row.passes} passes, {wanted} were expected")
