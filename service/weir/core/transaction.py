"""The transaction around a step: learn, test the result on trusted samples, then keep it or undo it bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.arithmetic import scoring
from weir.core.config import GateConfig
from weir.core.gate import Gate
from weir.core.learner import Before, Learner
from weir.core.network import Network, Weights
from weir.core.probe import ProbeSet
from weir.core.ranks import Ranks
from weir.core.task import Task
from weir.types import Arithmetic, DeclinePolicy, GateReport, State

HALVINGS = 5  # of a step in drift, before it is undone: a thirty-second of it says that it led nowhere

Timed = Callable[[str], AbstractContextManager[None]]


class Outcome(NamedTuple):
    """What a tentative step came to: its mean loss (None: not finite), and the gate's report if it was tested."""

    loss: float | None
    gate: GateReport | None

    @property
    def kept(self) -> bool:
        """Whether the step is in the weights."""
        return self.loss is not None and (self.gate is None or self.gate.kept)


class Transaction:
    """Makes updates and takes back those that are not finite or that the gate refuses."""

    def __init__(
        self,
        network: Network,
        task: Task,
        learner: Learner,
        config: GateConfig,
        ranks: Ranks,
        *,
        arithmetic: Arithmetic,
        timed: Timed,
    ) -> None:
        """``arithmetic`` is what glances score in; ``timed(stage)`` is a context in which stages gate and learn run."""
        self._network = network
        self._arithmetic = arithmetic
        self._task = task
        self._learner = learner
        self._keeps_best = config.decline_policy is DeclinePolicy.ROLLBACK
        self._ranks = ranks
        self._timed = timed
        self._gate = Gate(config)
        self._best: Before | None = None
        self._spare: Before | None = None
        self._drifted = False

    def attempt(
        self,
        x: Tensor,
        y: Tensor,
        *,
        seed: int,
        probe: ProbeSet | None,
        drift: bool,
        scored: Tensor | None = None,
        total: int | None = None,
        size: int | None = None,
    ) -> Outcome:
        """One update on prepared samples (n, …), tested where there is a probe set to test it with.

        ``scored``, ``total`` and ``size`` are as in ``Learner.step``.
        """
        if probe is None or (self._drifted and not drift):
            self._forget_best()  # what was kept below the best on purpose is what a decline is measured from now
        before = self._learner.capture(into=self._spare) if probe is not None else None
        self._spare = None if self._keeps_best else before  # else it may be kept as the best
        if before is not None and self._keeps_best and self._best is None:
            self._gate.reset()

        def learn(scored: Tensor | None = None) -> float | None:
            with self._timed("learn"):
                return self._learner.step(x, y, seed=seed, scored=scored, total=total, size=size)

        loss = learn(scored)
        if loss is None or probe is None or before is None:
            return Outcome(loss, None)
        with self._timed("gate"):
            passed = None if drift else self._glance(probe)
        return Outcome(loss, passed) if passed else self._tested(loss, learn, before, probe, drift=drift)

    def _glance(self, probe: ProbeSet) -> GateReport | None:
        rows = self._gate.rows(probe.size("gate"))
        if rows is None:
            return None
        weights = None  # a copy of what would be the same is spared
        if self._arithmetic is not Arithmetic.FLOAT32:
            weights = scoring(self._network.module.state_dict(), self._arithmetic, self._network.scoring_layout)
        return self._gate.glance(rows, self._losses(probe, weights, rows=rows))

    def _tested(
        self, loss: float | None, again: Callable[[], float | None], before: Before, probe: ProbeSet, *, drift: bool
    ) -> Outcome:
        """Keep the step that was taken if the gate lets it pass on all of its samples, or else if it does from rest.

        From rest, without the momentum of earlier steps, it is taken ``again``: what hurts may be theirs, and not what
        these samples ask for; and where a step is undone that momentum stays, to fail the honest samples that follow.
        Source: O'Donoghue and Candès, "Adaptive restart for accelerated gradient schemes", 2015.
        """
        first = not self._gate.knows_best
        if self._keeps_best and self._best is None:
            self._best = before
        with self._timed("gate"):
            losses = self._losses(probe, before.weights)
            report, after = self._test(before, losses, probe, drift=drift)
        if not report.kept and before.optimizer:
            self._learner.restore(before)
            self._learner.come_to_rest()
            loss = again()
            with self._timed("gate"):
                report, after = self._test(before._replace(optimizer={}), losses, probe, drift=drift)
            report = replace(report, from_rest=True)
        outcome = Outcome(loss, report)
        if not outcome.kept:
            self._undo(before, outcome)
            self._forget_best_of(first)
            return outcome
        self._drifted = drift  # of kept steps alone: a replay does not come to the others
        if self._gate.passed(after) and self._keeps_best:
            self._best = self._learner.capture()
        return outcome

    def _test(self, before: Before, losses: Tensor, probe: ProbeSet, *, drift: bool) -> tuple[GateReport, Tensor]:
        """Hold the losses after a step against those before; in drift, of as much of the step as passes."""
        after = self._losses(probe)
        report = self._gate.test(losses, after, drift=drift)
        return self._shortened(report, before, losses, after, probe) if drift else (report, after)

    def _shortened(
        self, report: GateReport, before: Before, losses: Tensor, after: Tensor, probe: ProbeSet
    ) -> tuple[GateReport, Tensor]:
        """Half of a step that the gate refuses in drift, half of that and so on, until it lets one pass.

        A new world makes large gradients, and what leads into it leads away from what the probe set shows: without
        this, one step after the other would be undone and the new world never learned.
        """
        for halvings in range(1, HALVINGS + 1):
            if not report.vetoed:
                break
            self._learner.halve(before)
            after = self._losses(probe)
            report = replace(self._gate.test(losses, after, drift=True), share=0.5**halvings)
        return report, after

    def put_best_back(self) -> None:
        """Restore the best model, at rest; without one it is the current model."""
        if self._best is not None:
            self._learner.restore(self._best)
        self._learner.come_to_rest()  # the velocity of now led away from it
        self._gate.forget()

    def reset(self) -> None:
        """Forget what was measured: the probe set or the weights have been replaced."""
        self._forget_best()

    def state(self) -> State:
        """Everything a restart needs."""
        best = [self._best.state().nest("best")] if self._best else []
        return State.merge(self._gate.state().nest("gate"), *best, State({}, {"drifted": self._drifted}))

    def load_state(self, state: State) -> None:
        """Replace the best losses, and the best model where one is kept."""
        device = self._network.device
        self._gate.load_state(state.part("gate"), device)
        best = state.part("best")
        self._best = Before.from_state(best, device) if best.values and self._keeps_best else None
        self._drifted = state.values["drifted"]

    def _undo(self, before: Before, outcome: Outcome) -> None:
        """Take the step back; or, where the policy says so, all that came after the best model."""
        if outcome.gate is not None and outcome.gate.rolled_back:
            self.put_best_back()
        else:
            self._learner.restore(before)

    def _forget_best_of(self, first: bool) -> None:
        """Forget a best that only an undone step has seen: a replay does not come to that step."""
        if first:
            self._forget_best()

    def _forget_best(self) -> None:
        self._gate.reset()
        self._best = None

    def _losses(self, probe: ProbeSet, weights: Weights | None = None, *, rows: Tensor | None = None) -> Tensor:
        """Losses of the current weights, or of others, on the gate part or some rows of it."""
        x, y = probe.part("gate", rows)
        with self._ranks.together("gate"), torch.no_grad():
            logits = self._network.outputs(self._network.prepare(self._ranks.own(x)), weights).logits
            own = self._task.loss(logits, self._ranks.own(y).to(self._network.device))
        return self._ranks.gather(own, len(y))
