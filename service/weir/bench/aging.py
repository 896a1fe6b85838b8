"""What age adds to the cost of an engine: many batches through it, and many producers that it has heard of."""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from weir.bench import traffic
from weir.core import Engine, EngineConfig
from weir.redteam import Cocktail
from weir.types import InputSpec, Recipe, State, StepReport, Verdict

TENTHS = 10
INPUTS = InputSpec((1, 8, 8), 10, -8.0, 8.0)
TOGETHER = 10  # producers in one step, where their number is what grows
ROWS_A_BEAT = 100  # rows of an inbox that count as one beat of progress, as a batch of the engine does
Progress = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How far each part grows; nought leaves it out.

    ``batches`` of ``samples`` go through an engine, a step each, from ``producers`` in turn. ``known`` is the largest
    number of producers that another engine has heard of, ``rows`` that of the entries in an inbox, in a file below
    ``place``. ``tries`` is how often each thing is measured at each size.
    """

    batches: int = 100_000
    known: int = 10_000
    rows: int = 1_000_000
    samples: int = 25
    producers: int = 8
    probe: int = 400
    hidden: int = 32
    tries: int = 200
    place: str = tempfile.gettempdir()
    threads: int = 1
    seed: int = 0

    @property
    def beats(self) -> int:
        """How often progress is told of."""
        return self.batches + self.known + 2 * (self.rows // ROWS_A_BEAT)


@dataclass(frozen=True, slots=True)
class Tenth:
    """A part of the run, of so many ``batches``: seconds of a step within it, and what there is at its end.

    A step is ``Engine.process`` and, as the trainer does after each, ``Engine.producers``. ``busy_seconds`` is the
    median of its processor time, which other programs on the machine do not add to. ``state_bytes`` are what
    ``Engine.state`` holds, its values as JSON; ``objects`` are those that Python's collector follows.
    """

    part: str
    tenth: int
    batches: int
    median_seconds: float
    p99_seconds: float
    longest_seconds: float
    busy_seconds: float
    rss_bytes: int
    objects: int
    state_bytes: int
    updates: int
    vetoes: int
    held_ratio: float
    probe_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Known:
    """An engine that has heard of so many ``producers``: median seconds of a step with samples of ten of them.

    ``report_seconds`` are those of ``Engine.producers`` after it.
    """

    part: str
    producers: int
    process_seconds: float
    report_seconds: float
    state_bytes: int


def sizes(largest: int) -> list[int]:
    """The sizes to measure at: four, each ten times the one before."""
    return sorted({max(1, largest // 10**power) for power in range(4)}) if largest else []


def quantile(seconds: Sequence[float], share: float) -> float:
    """The least of these that so large a share of them does not exceed."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


def state_bytes(state: State) -> int:
    """Bytes of the tensors, and of the values as JSON."""
    return sum(tensor.nbytes for tensor in state.tensors.values()) + len(json.dumps(state.values))


def _engine(plan: Plan) -> Engine:
    """The default configuration, vaccine, gate and probe set included."""
    recipe, config = Recipe("mlp", INPUTS, {"hidden": plan.hidden}), EngineConfig(step_size=1, seed=plan.seed)
    return traffic.burned_in(recipe, config, probe=plan.probe, seed=plan.seed)(config, poisoner=Cocktail())


def tenths(plan: Plan, progress: Progress) -> Iterator[Tenth]:
    """Send the batches through an engine, and look at each tenth of them."""
    if not plan.batches:
        return
    engine, generator = _engine(plan), torch.Generator().manual_seed(plan.seed + 1)
    parts = min(TENTHS, plan.batches)
    for tenth in range(parts):
        first, end = (plan.batches * bound // parts for bound in (tenth, tenth + 1))
        # Made at once: the run's own memory must not grow.
        seconds, busy = (array("d", bytes(8 * (end - first))) for _ in range(2))
        tally: Counter[str] = Counter()
        for number in range(first, end):
            x, y = traffic.samples(plan.samples, generator, INPUTS)
            step = traffic.step(number, x, y, [f"producer {number % plan.producers}"])
            start, began = time.perf_counter(), time.process_time()
            report = engine.process(step)
            engine.producers()
            seconds[number - first] = time.perf_counter() - start
            busy[number - first] = time.process_time() - began
            tally["samples"] += plan.samples
            tally["held"] += report.counts[Verdict.QUARANTINE]
            tally["vetoes"] += report.vetoed
            progress(1)
        yield _tenth(tenth + 1, seconds, busy, engine, report, tally)


def _tenth(
    tenth: int, seconds: Sequence[float], busy: Sequence[float], engine: Engine, last: StepReport, tally: Counter[str]
) -> Tenth:
    gc.collect()
    return Tenth(
        part="engine",
        tenth=tenth,
        batches=len(seconds),
        median_seconds=quantile(seconds, 0.5),
        p99_seconds=quantile(seconds, 0.99),
        longest_seconds=max(seconds),
        busy_seconds=quantile(busy, 0.5),
        rss_bytes=_resident(),
        objects=len(gc.get_objects()),
        state_bytes=state_bytes(engine.state()),
        updates=last.updates,
        vetoes=tally["vetoes"],
        held_ratio=tally["held"] / tally["samples"],
        probe_accuracy=last.probe_accuracy,
    )


def known(plan: Plan, progress: Progress) -> Iterator[Known]:
    """Let an engine hear of ever more producers, and look at how long it takes with so many."""
    if not plan.known:
        return
    engine, generator, number = _engine(plan), torch.Generator().manual_seed(plan.seed + 2), 0

    def process(producers: Sequence[str]) -> tuple[float, float]:
        nonlocal number
        step = traffic.step(number, *traffic.samples(plan.samples, generator, INPUTS), producers)
        number += 1
        start = time.perf_counter()
        engine.process(step)
        done = time.perf_counter()
        engine.producers()
        return done - start, time.perf_counter() - done

    heard = 0
    for size in sizes(plan.known):
        while heard < size:
            heard += 1
            process([f"producer {heard}"])  # a whole batch: then it is known well enough to be compared with
            progress(1)
        turns = (range(turn * TOGETHER, (turn + 1) * TOGETHER) for turn in range(plan.tries))
        spent = [process([f"producer {1 + number % size}" for number in turn]) for turn in turns]
        process_seconds, report_seconds = zip(*spent, strict=True)
        medians = quantile(process_seconds, 0.5), quantile(report_seconds, 0.5)
        yield Known("producers", size, *medians, state_bytes(engine.state()))


def _resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
