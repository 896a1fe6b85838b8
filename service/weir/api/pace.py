"""How many samples the model predicts in no time: so many may do without a thread of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_QUICK_SECONDS = 0.001


class Pace:
    """What is known of the model's speed; one event loop asks, any thread may measure.

    A thread costs more than a quick prediction takes, and often begins on the learner's core, where it waits for the
    scheduler's next turn. So many samples as were predicted within a millisecond do not get one. The clock gives the
    CPU seconds of the thread that asks: what a prediction waits for, the learner included, says nothing of the
    model.
    """

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.thread_time
        self._most = 0

    def is_quick(self, samples: int) -> bool:
        """Whether so many samples, or more, were predicted in no time when that was last tried."""
        return samples <= self._most

    @contextmanager
    def measured(self, samples: int) -> Iterator[None]:
        """Learn from a prediction of so many samples, made in this block by this thread."""
        began = self.clock()
        yield
        self.learn(samples, self.clock() - began)

    def learn(self, samples: int, seconds: float) -> None:
        """Learn that so many samples took so many seconds of CPU."""
        if seconds <= _QUICK_SECONDS:
            self._most = max(self._most, samples)
        elif samples <= self._most:
            self._most = samples // 2
