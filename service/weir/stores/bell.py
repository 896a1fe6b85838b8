"""What wakes the threads that wait for something to be written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Bell:
    """Rung after every write; who waits looks again each time, and once more when its time is up."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rings = 0

    def ring(self) -> None:
        """Let everyone who waits look again."""
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def wait(self, happened: Callable[[], bool], timeout: float) -> bool:
        """Block until ``happened()`` (True) or ``timeout`` seconds went by (False)."""
        deadline = time.monotonic() + timeout
        while True:
            heard = self._rings  # read before looking: a ring in between is not missed
            if happened():
                return True
            if not self._next_ring(heard, deadline - time.monotonic()):
                return happened()  # another process may have written without ringing here

    def _next_ring(self, heard: int, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._rings != heard, max(0.0, seconds))
