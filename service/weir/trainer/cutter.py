"""Cuts the log into steps and commands: across small deliveries, within large ones, always in order."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weir import codec
from weir.stores.base import Cursor, Entry, EntryKind, Log
from weir.types import Batch, SampleRef

MOST_ENTRIES = 64  # read at once: one-sample deliveries come in few reads, large ones do not fill the memory


@dataclass(frozen=True, slots=True)
class StepCut:
    """The samples of one step, which lie between two cursors; all fields past them have the same length n."""

    start: Cursor
    end: Cursor
    x: Tensor
    y: Tensor
    refs: tuple[SampleRef, ...]
    producers: tuple[str, ...]
    ids: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class CommandCut:
    """One command, which lies between two cursors."""

    start: Cursor
    end: Cursor
    entry: Entry


@dataclass(slots=True)
class _Pending:
    """An entry read from the log and not yet cut to its end."""

    entry: Entry
    batch: Batch | None = field(default=None)

    def samples(self) -> Batch:
        if self.batch is None:
            self.batch = codec.load(self.entry.payload)
        return self.batch


class Cutter:
    """Reads the log in order from a cursor and cuts the next step or command off it."""

    def __init__(self, log: Log, *, step_size: int) -> None:
        self._log = log
        self._step_size = step_size
        self._pending: deque[_Pending] = deque()
        self.cursor = Cursor()

    def seek(self, cursor: Cursor) -> None:
        """Go on from this cursor."""
        self.cursor = cursor
        self._pending.clear()

    @property
    def read(self) -> int:
        """The last position read."""
        return self._pending[-1].entry.position if self._pending else self.cursor.position

    @property
    def waiting(self) -> bool:
        """Whether samples have been read that do not fill a step yet."""
        return bool(self._pending)

    def cut(self, *, partial: bool, until: Cursor | None = None) -> StepCut | CommandCut | None:
        """Cut the next command, or up to ``step_size`` samples (fewer only when ``partial``).

        With ``until`` it is all samples up to there, however many a step has now: a cut that is on record stands.
        """
        self._fill(until)
        if not self._pending:
            return None
        first = self._pending[0].entry
        if first.kind is not EntryKind.BATCH:
            return self._cut_command(first)
        spans = self._spans(until)
        samples = sum(stop - start for _, start, stop in spans)
        if samples < self._step_size and not partial and until is None and not self._ends_at_command(spans):
            return None
        return self._cut_samples(spans)

    def _fill(self, until: Cursor | None) -> None:
        """Read on until a step's worth of samples, a command or ``until`` is in hand, or the log ends."""
        while (wanted := self._wanted(until)) > 0:
            entries = self._log.read(self.read, min(MOST_ENTRIES, wanted))
            if not entries:
                return
            self._pending.extend(_Pending(entry) for entry in entries)

    def _wanted(self, until: Cursor | None) -> int:
        """How many more entries the next cut needs, as far as can be told; 0 or less when it has enough."""
        if until is not None:
            return until.position + (until.offset > 0) - self.read
        if not self._pending:
            return 1  # whether deliveries are small or large is not known yet
        if any(p.entry.kind is not EntryKind.BATCH for p in self._pending):
            return 0
        missing = self._step_size - sum(p.entry.samples for p in self._pending) + self.cursor.offset
        return max(1, missing // self._pending[-1].entry.samples) if missing > 0 else 0

    def _spans(self, until: Cursor | None) -> list[tuple[_Pending, int, int]]:
        """Which samples of which pending entries make up the next step."""
        spans: list[tuple[_Pending, int, int]] = []
        room, start = self._step_size if until is None else sys.maxsize, self.cursor.offset
        for pending in self._pending:
            entry = pending.entry
            if entry.kind is not EntryKind.BATCH or room == 0:
                break
            stop = min(entry.samples, start + room)
            if until is not None and entry.position > until.position:
                stop = min(stop, until.offset)
            if stop <= start:
                break
            spans.append((pending, start, stop))
            if stop < entry.samples or (until is not None and entry.position > until.position):
                break
            room -= stop - start
            start = 0
        return spans

    def _ends_at_command(self, spans: list[tuple[_Pending, int, int]]) -> bool:
        return len(self._pending) > len(spans) and self._pending[len(spans)].entry.kind is not EntryKind.BATCH

    def _cut_command(self, entry: Entry) -> CommandCut:
        start, self.cursor = self.cursor, Cursor(entry.position, 0)
        self._pending.popleft()
        return CommandCut(start, self.cursor, entry)

    def _cut_samples(self, spans: list[tuple[_Pending, int, int]]) -> StepCut:
        begin = self.cursor
        refs: list[SampleRef] = []
        producers: list[str] = []
        ids: list[str | None] = []
        for pending, start, stop in spans:
            entry, batch = pending.entry, pending.samples()
            refs += [SampleRef(entry.id, index) for index in range(start, stop)]
            producers += [entry.producer] * (stop - start)
            ids += batch.ids[start:stop] if batch.ids else [None] * (stop - start)
            done = stop == entry.samples
            self.cursor = Cursor(entry.position, 0) if done else Cursor(entry.position - 1, stop)
            if done:
                self._pending.popleft()
        return StepCut(
            begin,
            self.cursor,
            x=_join([pending.samples().x[start:stop] for pending, start, stop in spans]),
            y=torch.cat([pending.samples().y[start:stop] for pending, start, stop in spans]),
            refs=tuple(refs),
            producers=tuple(producers),
            ids=tuple(ids),
        )


def _join(parts: list[Tensor]) -> Tensor:
    """One tensor of all parts; deliveries may differ in dtype, and uint8 then takes its scale along."""
    if len({part.dtype for part in parts}) > 1:
        parts = [p.float() / 255 if p.dtype == torch.uint8 else p.float() for p in parts]
    return torch.cat(parts)
