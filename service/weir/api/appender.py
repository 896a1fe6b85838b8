"""Deliveries on their way into the log: those that come at the same time go there together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import NamedTuple

import anyio
from anyio.to_thread import run_sync

from weir.errors import LogFull, WeirError
from weir.stores.base import Durability, Entry, Log, NewEntry

_MOST_BYTES = 256 * 1024 * 1024
_GROUP_BYTES = 8 * 1024 * 1024
_RETRY_SECONDS = 1.0


class Receipt(NamedTuple):
    """The entry of a delivery, whether it is new, and what its acknowledgement is worth."""

    entry: Entry
    new: bool
    durability: Durability


class Appender:
    """Appends for all requests of one event loop, in one thread.

    While a group is on its way to the disk the next one gathers; a delivery that comes alone goes alone and at once.
    """

    def __init__(self, log: Log, durability: Callable[[], Durability]) -> None:
        self._log = log
        self._durability = durability
        self._waiting: deque[tuple[NewEntry, asyncio.Future[Receipt]]] = deque()
        self._bytes = 0
        self._work: asyncio.Task[None] | None = None
        self._thread = anyio.CapacityLimiter(1)

    async def append(self, new: NewEntry) -> Receipt:
        """Append durably; raises what ``Log.append`` does, and LogFull when too many bytes wait for the disk."""
        if self._waiting and self._bytes + len(new.payload) > _MOST_BYTES:
            held = f"{len(self._waiting)} batches ({self._bytes} bytes)"
            raise LogFull(_RETRY_SECONDS, held, behind="the disk")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((new, future))
        self._bytes += len(new.payload)
        if self._work is None:  # in a context of its own: what it does is not this request's alone
            self._work = asyncio.get_running_loop().create_task(self._empty(), context=Context())
        receipt: Receipt = await future
        return receipt

    async def _empty(self) -> None:
        """Append group after group until nothing waits."""
        try:
            while group := self._group():
                await self._settle(group)
        finally:
            self._work = None

    def _group(self) -> list[tuple[NewEntry, asyncio.Future[Receipt]]]:
        """The oldest of those that wait: one, and more while they are not too many bytes for the others' patience."""
        group, size = list[tuple[NewEntry, asyncio.Future[Receipt]]](), 0
        while self._waiting and (not group or size + len(self._waiting[0][0].payload) <= _GROUP_BYTES):
            group.append(self._waiting.popleft())
            size += len(group[-1][0].payload)
        self._bytes -= size
        return group

    async def _settle(self, group: Sequence[tuple[NewEntry, asyncio.Future[Receipt]]]) -> None:
        outcomes: Sequence[Receipt | Exception]
        try:
            outcomes = await run_sync(self._append, [new for new, _ in group], limiter=self._thread)
        except Exception as error:
            outcomes = [error] * len(group)
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if future.done():  # whoever waited for it was cancelled
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _append(self, entries: Sequence[NewEntry]) -> list[Receipt | WeirError]:
        outcomes, durability = self._log.append_all(entries), self._durability()
        return [outcome if isinstance(outcome, WeirError) else Receipt(*outcome, durability) for outcome in outcomes]
