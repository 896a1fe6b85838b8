"""Accuracy before each step on the stream (progressive validation), and after it on the probe set."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from weir.types import State


class Progressive:
    """Accuracy of predictions made before their sample was learned, over the newest ``window`` samples."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._steps: deque[tuple[int, int]] = deque()
        self._right = self._seen = 0

    def observe(self, correct: Tensor) -> None:
        """Count one step's predictions (n,) bool."""
        right, seen = int(correct.sum()), len(correct)
        self._steps.append((right, seen))
        self._right += right
        self._seen += seen
        while len(self._steps) > 1 and self._seen - self._steps[0][1] >= self._window:
            old_right, old_seen = self._steps.popleft()
            self._right -= old_right
            self._seen -= old_seen

    @property
    def accuracy(self) -> float | None:
        """Share of right predictions in the window; None before the first."""
        return self._right / self._seen if self._seen else None

    def state(self) -> State:
        """Everything a restart needs."""
        return State({}, {"steps": [list(step) for step in self._steps]})

    def load_state(self, state: State) -> None:
        """Replace the window."""
        self._steps = deque((right, seen) for right, seen in state.values["steps"])
        self._right = sum(right for right, _ in self._steps)
        self._seen = sum(seen for _, seen in self._steps)
