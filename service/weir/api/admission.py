"""Who may deliver now: a producer whose samples wait for review in great numbers has to have them reviewed first."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from weir.errors import QuotaExceeded
from weir.stores.base import Quarantine

_CACHE_SECONDS = 1.0
_CACHE_SIZE = 1_000
_RETRY_SECONDS = 60.0  # people review, and people take their time

_K = TypeVar("_K", bound=Hashable)


class Admission:
    """The quarantine's two caps; what it counts is at most a second old, so that a delivery rarely asks the store.

    ``clock`` gives seconds that only go forward.
    """

    def __init__(
        self, quarantine: Quarantine, *, most: int, most_of_one: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._of_one = _Counts(quarantine.held_by, clock)
        self._of_all = _Counts[None](lambda _: quarantine.size().samples, clock)

    async def check(self, producer: str) -> None:
        """Raise QuotaExceeded, with the code ``quarantine_full``, for a producer that has too much held.

        One that has nothing there is never refused, however full the quarantine is.
        """
        own = await self._of_one(producer)
        if own >= self._most_of_one:
            raise _full(f"{own} samples of {producer!r} are held for review, of at most {self._most_of_one}")
        if own and (held := await self._of_all(None)) >= self._most:
            many = f"{held} samples are held for review, of at most {self._most}"
            raise _full(f"{many}, {own} of {producer!r} among them")


class _Counts(dict[_K, tuple[float, int]]):
    """Counts by key, each good for a second; of too many keys the oldest is forgotten. ``count`` may block."""

    def __init__(self, count: Callable[[_K], int], clock: Callable[[], float]) -> None:
        super().__init__()
        self._count = count
        self._clock = clock

    async def __call__(self, key: _K) -> int:
        now = self._clock()
        until, count = self.get(key, (now, 0))
        if now < until:
            return count
        count = await run_in_threadpool(self._count, key)
        self.pop(key, None)
        self[key] = (now + _CACHE_SECONDS, count)
        if len(self) > _CACHE_SIZE:
            del self[next(iter(self))]
        return count


def _full(held: str) -> QuotaExceeded:
    cure = "have them reviewed: released or discarded"
    return QuotaExceeded(_RETRY_SECONDS, f"{held}: {cure}", code="quarantine_full")
