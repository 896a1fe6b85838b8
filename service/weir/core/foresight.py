"""What a step would do to the trusted loss, told from one gradient of it: most steps need no look at the probe set."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.config import GateConfig
from weir.types import State

SAFETY = 2.0  # a curvature this much larger than the largest one met is allowed for
LEARNED_FROM = 8  # tests: the curvature of a model that has come to rest is not that of its first steps
FEWEST = 3  # of them before the first step is spared
STRIDE = 2.0  # a step is spared up to so many times the longest one tested: beyond it nothing is known


class Stride(NamedTuple):
    """A step that was not taken yet: its length, and the harm it does to the first order, nats."""

    length: float = 0.0
    harm: float = 0.0


class Foresight:
    """A first-order check with a bound: harm ≤ ⟨∇, Δ⟩ + c · (moved + ‖Δ‖ / 2) · ‖Δ‖, for a step Δ.

    ∇ is the gradient of the mean trusted loss at weights from which steps of a length of ``moved`` have led here, and c
    ``SAFETY`` times the largest curvature that the tests have met: by Taylor's theorem the loss differs from its first
    order by half the curvature times the square of the way. A step is spared its test only while the bound keeps what
    the test would ask: ``tolerance`` for the step, ``decline`` for all of them, ``spare`` steps in a row at most.
    """

    def __init__(self, config: GateConfig) -> None:
        self._config = config
        self.forget()

    def forget(self) -> None:
        """Know nothing: probe set or weights have been replaced."""
        self.gradient: list[Tensor] = []
        self._curvatures: deque[float] = deque(maxlen=LEARNED_FROM)
        self._lengths: deque[float] = deque(maxlen=LEARNED_FROM)
        self._moved = self._spent = self._decline = 0.0
        self._spared = 0

    def bound(self, stride: Stride) -> float:
        """The most that a step may cost the mean trusted loss, nats."""
        curvature = SAFETY * max(self._curvatures, default=0.0)
        return stride.harm + curvature * (self._moved + stride.length / 2) * stride.length

    def spares(self, stride: Stride) -> bool:
        """Whether the test may be left out for this step."""
        if len(self._curvatures) < FEWEST or self._spared >= self._config.spare:
            return False
        bound = self.bound(stride)
        known = stride.length <= STRIDE * max(self._lengths)
        spent = self._decline + self._spent + max(bound, 0.0)
        return known and bound <= self._config.tolerance and spent <= self._config.decline

    def taken(self, stride: Stride) -> None:
        """Count a step that was taken without a test."""
        self._spent += max(self.bound(stride), 0.0)
        self._moved += stride.length
        self._spared += 1

    def tested(self, gradient: Sequence[Tensor], stride: Stride, *, harm: float, decline: float) -> None:
        """Learn from a step that passed its test: the gradient before it, and what it really did, nats."""
        self.gradient = list(gradient)
        if stride.length > 0:
            self._curvatures.append(2 * abs(harm - stride.harm) / stride.length**2)
            self._lengths.append(stride.length)
        self._moved, self._spent, self._decline, self._spared = stride.length, 0.0, decline, 0

    def state(self) -> State:
        """Everything a restart needs."""
        values = {
            "curvatures": list(self._curvatures),
            "lengths": list(self._lengths),
            "moved": self._moved,
            "spent": self._spent,
            "decline": self._decline,
            "spared": self._spared,
        }
        return State({str(index): tensor for index, tensor in enumerate(self.gradient)}, values)

    def load_state(self, state: State, device: torch.device) -> None:
        """Replace what is known."""
        self.forget()
        values = state.values
        self.gradient = [state.tensors[str(index)].to(device) for index in range(len(state.tensors))]
        self._curvatures.extend(values["curvatures"])
        self._lengths.extend(values["lengths"])
        self._moved, self._spent, self._decline = values["moved"], values["spent"], values["decline"]
        self._spared = values["spared"]
