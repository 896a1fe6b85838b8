"""One guard on one stream: what happened at every step, beside the truth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weir.bench.guards import Guard
from weir.bench.stream import Phase, Stream, Turn, truth
from weir.bench.terms import Material, Terms
from weir.core import Engine
from weir.core.network import Weights
from weir.redteam import ThreatModel, success_rate
from weir.types import SampleRef, State, Step, StepReport

EVERYTHING = ThreatModel(epsilon=1.0)


@dataclass(frozen=True, slots=True)
class Moment:
    """One step: what the engine reported, and the truth about its n samples, which it never saw."""

    phase: Phase
    report: StepReport
    labels: Tensor  # (n,) as claimed
    poisoned: Tensor  # (n,) bool
    noisy: Tensor  # (n,) bool: wrong, and nobody means harm


@dataclass(frozen=True, slots=True)
class Trial:
    """Test accuracy before the stream and after every turn (a turn without samples changes nothing), and its steps.

    ``success`` is the backdoor's success rate at the same times; empty where the stream has no backdoor.
    """

    phases: tuple[Phase, ...]
    accuracy: tuple[float, ...]
    old_accuracy: tuple[float, float]  # at the start and at the end, in the world before any drift
    moments: tuple[Moment, ...]
    success: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Bench:
    """Where engines come from and what they are judged on."""

    terms: Terms
    given: Material
    state: State
    seed: int

    def engine(self, guard: Guard) -> Engine:
        """A burned-in engine behind a guard, with its probe set."""
        engine = Engine(self.given.recipe, guard.configure(self.terms.config(self.seed)), poisoner=guard.poisoner)
        engine.load_state(self.state)
        engine.set_probe(self.given.probe.x, self.given.probe.y, created_at=0.0, source="bench")
        return engine

    @property
    def anchor(self) -> Weights:
        """The weights that the guard measures discrepancy against."""
        return self.state.part("snapshots").part("anchor").tensors

    def run(self, guard: Guard, stream: Stream, *, rate: float = 0.0, absent: bool = False) -> Trial:
        """Put a stream through a guard; with ``absent`` whatever means harm stays away, and nothing else changes."""
        start = time.perf_counter()
        engine = self.engine(guard)
        test = self._test(engine, stream)
        old = _accuracy(engine, self.given.test.x, self.given.test.y)
        accuracy = [_accuracy(engine, test, self.given.test.y)]
        success = self._success(engine, stream)
        moments = []
        for number, turn in enumerate(stream.turns):
            moment = self._take(engine, guard, number, turn, rate, absent)
            if moment is not None:
                moments.append(moment)
            accuracy.append(_accuracy(engine, test, self.given.test.y) if moment else accuracy[-1])
            success += self._success(engine, stream)
        return Trial(
            phases=tuple(turn.phase for turn in stream.turns),
            accuracy=tuple(accuracy),
            old_accuracy=(old, _accuracy(engine, self.given.test.x, self.given.test.y)),
            moments=tuple(moments),
            success=tuple(success),
            seconds=time.perf_counter() - start,
        )

    def _take(self, engine: Engine, guard: Guard, number: int, turn: Turn, rate: float, absent: bool) -> Moment | None:
        corrupt = truth(turn)
        hostile = turn.corruption is not None and turn.corruption.hostile
        order = _shuffled(self.seed, number, len(corrupt))  # the place in a batch must not give a sample away
        if absent and hostile:
            order = order[~corrupt[order]]
        if not len(order):
            return None
        spared = absent and hostile  # then what is crafted would be thrown away
        x, y = (turn.batch.x, turn.batch.y) if spared else corrupted(engine, turn)
        refs = [SampleRef(f"turn{number}", index) for index in range(len(order))]
        step = Step(number, x[order], y[order], refs, [turn.producers[at] for at in order.tolist()])
        report = guard.process(engine, step, rate)
        wrong = corrupt[order]
        return Moment(turn.phase, report, y[order], wrong & hostile, wrong & (not hostile))

    def _test(self, engine: Engine, stream: Stream) -> Tensor:
        test = self.given.test
        return test.x if stream.drift is None else EVERYTHING.craft(stream.drift, engine.network.module, test.x, test.y)

    def _success(self, engine: Engine, stream: Stream) -> list[float]:
        """The backdoor's success rate now; nothing without one."""
        if stream.patch is None:
            return []
        test = self.given.test
        stamped = EVERYTHING.craft(stream.patch, engine.network.module, test.x, test.y)
        return [success_rate(engine.predict, stamped, test.y, stream.patch.target)]


def corrupted(engine: Engine, turn: Turn) -> tuple[Tensor, Tensor]:
    """A turn's samples and labels as they are sent: crafted against the model of this moment, within the budget."""
    x, y, corruption = turn.batch.x, turn.batch.y, turn.corruption
    if corruption is None:
        return x, y
    return corruption.applied(engine.network.module, x, y)


def _accuracy(engine: Engine, x: Tensor, y: Tensor) -> float:
    return float((engine.predict(x).argmax(1) == y).float().mean())


def _shuffled(seed: int, number: int, n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + number))


def median(values: Sequence[float]) -> float:
    """The middle of the values; the lower one of two."""
    return sorted(values)[(len(values) - 1) // 2]
