"""The transaction around a step: learn, test the result on trusted samples, then keep it or undo it bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.config import GateConfig
from weir.core.foresight import Foresight
from weir.core.gate import Gate
from weir.core.learner import Before, Learner, Slope
from weir.core.network import Network
from weir.core.probe import ProbeSet
from weir.core.task import Task
from weir.types import DeclinePolicy, GateReport, State

Timed = Callable[[str], AbstractContextManager[None]]


class Outcome(NamedTuple):
    """What a tentative step came to: its mean loss (None: not finite), and the gate's report if it was tested."""

    loss: float | None
    gate: GateReport | None

    @property
    def kept(self) -> bool:
        """Whether the step is in the weights."""
        return self.loss is not None and not (self.gate and (self.gate.vetoed or self.gate.rolled_back))


class _Start(NamedTuple):
    """The model before a step, its losses (n,) on the gate part, and their gradient if it is to spare later tests."""

    before: Before
    losses: Tensor
    gradient: list[Tensor]


class Transaction:
    """Makes updates and takes back those that are not finite or that the gate refuses."""

    def __init__(self, network: Network, task: Task, learner: Learner, config: GateConfig, *, timed: Timed) -> None:
        """``timed(stage)`` is a context in which the stages gate and learn run."""
        self._network = network
        self._task = task
        self._learner = learner
        self._keeps_best = config.decline_policy is DeclinePolicy.ROLLBACK
        self._timed = timed
        self._gate = Gate(config)
        self._foresight = Foresight(config)
        self._foresees = config.spare > 0 and learner.shares
        self._best: Before | None = None
        self._drifted = False
        self._losses: Tensor | None = None  # of the current weights on the gate part, once they are known

    def attempt(
        self, x: Tensor, y: Tensor, *, seed: int, probe: ProbeSet | None, drift: bool, scored: Tensor | None = None
    ) -> Outcome:
        """One update on prepared samples (n, …), tested where there is a probe set to test it with.

        ``scored`` are logits of ``x`` that may be learned from, see ``Learner.differentiate``.
        """
        if probe is None or (self._drifted and not drift):
            self._forget_best()  # what was kept below the best on purpose is what a decline is measured from now
        # A pass in train mode changes buffers, and what is to be compared is the model before it.
        start = self._start(probe) if probe is not None and not self._learner.shares else None
        with self._timed("learn"):
            slope = self._learner.differentiate(x, y, seed=seed, scored=scored, trusted=self._foresight.gradient)
        if slope is None:
            return Outcome(None, None)
        if probe is None:
            return self._untested(slope)
        if start is None and not drift and self._knows_best and self._foresight.spares(slope.stride):
            return self._spared(slope)
        return self._tested(start or self._start(probe), slope, probe, drift=drift)

    def _untested(self, slope: Slope) -> Outcome:
        with self._timed("learn"):
            self._learner.advance()
        self._losses = None
        return Outcome(slope.loss, None)

    def _spared(self, slope: Slope) -> Outcome:
        """Take a step whose harm is bounded without a look at the probe set."""
        self._foresight.taken(slope.stride)
        return self._untested(slope)._replace(gate=GateReport(slope.stride.harm))

    def _tested(self, start: _Start, slope: Slope, probe: ProbeSet, *, drift: bool) -> Outcome:
        """Take a step, and keep it if the gate lets it pass."""
        before, losses, gradient = start
        first = not self._gate.knows_best
        if self._keeps_best and self._best is None:
            self._gate.reset()
            self._best = before
        with self._timed("learn"):
            stride = self._learner.stride(gradient) if gradient else slope.stride
            self._learner.advance()
        self._losses = None
        with self._timed("gate"):
            after = self._measured(probe)
            outcome = Outcome(slope.loss, self._gate.test(losses, after, drift=drift))
        if not outcome.kept:
            self._undo(before, losses, outcome)
            self._forget_best_of(first)
            return outcome
        self._drifted = drift  # of kept steps alone: a replay does not come to the others
        if self._gate.passed(after) and self._keeps_best:
            self._best = self._learner.capture()
        if gradient:
            harm = float((after - losses).mean())
            self._foresight.tested(gradient, stride, harm=harm, decline=self._gate.decline(after))
        return outcome

    def put_best_back(self) -> None:
        """Restore the best model, at rest; without one it is the current model."""
        if self._best is not None:
            self._learner.restore(self._best)
        self._learner.come_to_rest()  # the velocity of now led away from it
        self._foresight.forget()
        self._losses = None

    def reset(self) -> None:
        """Forget what was measured: the probe set or the weights have been replaced."""
        self._forget_best()
        self._foresight.forget()
        self._losses = None

    def state(self) -> State:
        """Everything a restart needs."""
        best = [self._best.state().nest("best")] if self._best else []
        parts = [self._gate.state().nest("gate"), self._foresight.state().nest("foresight"), *best]
        return State.merge(*parts, State({}, {"drifted": self._drifted}))

    def load_state(self, state: State) -> None:
        """Replace the best losses, and the best model where one is kept."""
        device = self._network.device
        self._gate.load_state(state.part("gate"), device)
        self._foresight.load_state(state.part("foresight"), device)
        best = state.part("best")
        self._best = Before.from_state(best, device) if best.values and self._keeps_best else None
        self._drifted = state.values["drifted"]
        self._losses = None

    def _undo(self, before: Before, losses: Tensor, outcome: Outcome) -> None:
        """Take the step back; or, where the policy says so, all that came after the best model."""
        if outcome.gate is not None and outcome.gate.rolled_back:
            self.put_best_back()
        else:
            self._learner.restore(before)
            self._losses = losses

    def _forget_best_of(self, first: bool) -> None:
        """Forget a best that only an undone step has seen: a replay does not come to that step."""
        if first:
            self._forget_best()

    def _forget_best(self) -> None:
        self._gate.reset()
        self._best = None

    @property
    def _knows_best(self) -> bool:
        return self._gate.knows_best and not (self._keeps_best and self._best is None)

    def _start(self, probe: ProbeSet) -> _Start:
        before = self._learner.capture()
        with self._timed("gate"):
            if not self._foresees:
                return _Start(before, self._measured(probe), [])
            parameters = list(self._network.module.parameters())
            with torch.enable_grad():
                losses = self._losses_on(probe)
                gradient = torch.autograd.grad(losses.mean(), parameters, allow_unused=True, materialize_grads=True)
            return _Start(before, losses.detach(), list(gradient))

    def _measured(self, probe: ProbeSet) -> Tensor:
        """Losses (n,) of the current weights on the gate part, computed once for each set of weights."""
        if self._losses is None:
            with torch.no_grad():
                self._losses = self._losses_on(probe)
        return self._losses

    def _losses_on(self, probe: ProbeSet) -> Tensor:
        part = probe.part("gate")
        logits = self._network.outputs(self._network.prepare(part.x)).logits
        return self._task.loss(logits, part.y.to(self._network.device))
