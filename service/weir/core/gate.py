"""The transaction around a step: would this update hurt what the model must not forget?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weir.core.calibration import NORMAL
from weir.core.config import GateConfig
from weir.types import DeclinePolicy, GateReport, State

DOUBT = 1.0  # standard errors
FEWEST = 50  # samples in a glance: fewer see too little, and where there are not many all cost little


class Gate:
    """A paired one-sided t-test of the losses on the probe set's gate part, after a tentative step against before.

    A second test holds the model against the best it has been: harm that no single step shows adds up. Each has half
    of the rate, so that at most ``rate`` of harmless steps are undone. What passes has done at most ``tolerance`` of
    mean harm in one step, and ``decline`` in all, beyond what the test cannot tell.

    Most steps need no test. A glance at some of the samples, others each time, holds them against what they were when
    they were last looked at, and the step passes unless it is in doubt: unless their loss has risen beyond the
    tolerance by a standard error, or all as far as known fail the second test. A glance at a quarter has twice the
    standard error: a step on the bound of the test escapes it one time in three, one with twice the excess one time in
    thirty, and what it did is seen by the glances that follow.
    """

    def __init__(self, config: GateConfig) -> None:
        self._config = config
        self._best: Tensor | None = None
        self._known: Tensor | None = None  # losses (n,) as each was last seen
        self._next = 0

    @property
    def knows_best(self) -> bool:
        """Whether there is a best to hold the model against."""
        return self._best is not None

    def rows(self, n: int) -> Tensor | None:
        """Which of ``n`` samples to glance at next; None where all are to be tested."""
        rows = max(FEWEST, math.ceil(n / self._config.turns))
        if self._known is None or self._best is None or rows >= n:
            return None
        return (torch.arange(rows) + self._next) % n

    def glance(self, rows: Tensor, after: Tensor) -> GateReport | None:
        """Let a step pass by its losses (k,) on some rows; None where only a test can tell."""
        assert self._known is not None
        assert self._best is not None
        known = self._known.clone()
        known[rows] = after
        rise, threshold = after - self._known[rows], self._threshold(len(known))
        if not paired_statistic(rise, self._config.tolerance) <= min(DOUBT, threshold / 2):  # not: it may be no number
            return None
        if not paired_statistic(known - self._best, self._config.decline) <= threshold:
            return None
        self._known, self._next = known, int(rows[-1] + 1) % len(known)
        return GateReport(float(rise.mean()))

    def test(self, before: Tensor, after: Tensor, *, drift: bool = False) -> GateReport:
        """Judge a tentative step by its losses per sample (n,), nats; ``harm`` is the mean of after − before.

        Under ``drift`` the probe set describes an older world, which the new one may contradict: a step may do more
        harm to it, ``drift_tolerance``, and a decline raises its alarm and nothing else.
        """
        if self._best is None:
            self._best = before.clone()
        threshold = self._threshold(len(before))
        harm = float((after - before).mean())
        tolerance = self._config.drift_tolerance if drift else self._config.tolerance
        statistic = paired_statistic(after - before, tolerance)
        decline = paired_statistic(after - self._best, self._config.decline)
        acts = self._config.decline_policy is not DeclinePolicy.ALARM and not drift
        if acts and harm > 0:  # a model that is below its best already must still be allowed to recover
            statistic = max(statistic, decline)
        return GateReport(
            harm=harm,
            statistic=statistic,
            threshold=threshold,
            vetoed=not statistic <= threshold,  # losses that are not numbers give a statistic that is none
            declined=not decline <= threshold,
            rolled_back=acts and self._config.decline_policy is DeclinePolicy.ROLLBACK and not decline <= threshold,
        )

    def passed(self, losses: Tensor) -> bool:
        """Say that the model with these losses was kept; returns whether it is the best so far."""
        self._known = losses.clone()
        best = self._best is None or float(losses.mean()) < float(self._best.mean())
        if best:
            self._best = losses.clone()
        return best

    def reset(self) -> None:
        """Forget the best: the gate part has been replaced."""
        self._best = self._known = None

    def forget(self) -> None:
        """Glance at nothing before the next test: the weights have been replaced."""
        self._known = None

    def _threshold(self, n: int) -> float:
        """The bound on each of the two statistics of ``n`` samples."""
        return student_quantile(1 - self._config.rate / 2, n - 1)

    def state(self) -> State:
        """Everything a restart needs."""
        held = {"best": self._best, "known": self._known}
        return State({name: losses for name, losses in held.items() if losses is not None}, {"next": self._next})

    def load_state(self, state: State, device: torch.device) -> None:
        """Replace what is known."""
        held = {name: losses.to(device) for name, losses in state.tensors.items()}
        self._best, self._known = held.get("best"), held.get("known")
        self._next = state.values.get("next", 0)  # earlier versions had no glances


def paired_statistic(harm: Tensor, tolerance: float) -> float:
    """t = (mean − tolerance) / (sd / √n) of paired differences (n,); infinite when they all agree beyond tolerance."""
    excess = float(harm.mean()) - tolerance
    error = float(harm.std(unbiased=True)) / math.sqrt(len(harm))
    if error == 0.0:
        return math.inf if excess > 0 else -math.inf
    return excess / error


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion about the normal quantile (Abramowitz and Stegun 26.7.5)."""
    z = NORMAL.inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def finite(*values: Tensor) -> Tensor:
    """Whether every number is finite, as one bool on the device: their sum is, which makes no copy of them."""
    return torch.stack([value.sum().float() for value in values]).isfinite().all()
