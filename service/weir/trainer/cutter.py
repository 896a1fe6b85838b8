"""Cuts the log into steps and commands: across small deliveries, within large ones, always in order."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weir import codec
from weir.stores.base import Cursor, Entry, EntryKind, Log
from weir.types import Batch, SampleRef

MOST_ENTRIES = 64  # read at once: one-sample deliveries come in few reads, large ones do not fill the memory
Keep = Callable[[Entry, int], bool]
"""Whether a sample, known by its entry and its index there, takes part."""


@dataclass(frozen=True, slots=True)
class StepCut:
    """The samples of one step, which lie between two cursors; all fields past them have the same length n.

    n is 0 when everything between the cursors of a cut that is on record has been erased or left out.
    """

    start: Cursor
    end: Cursor
    x: Tensor
    y: Tensor
    refs: tuple[SampleRef, ...]
    producers: tuple[str, ...]
    ids: tuple[str | None, ...]

    @property
    def payload(self) -> bytes:
        """The samples as a batch of their own; where not all of them have ids of their producers, none has."""
        named = tuple(id for id in self.ids if id is not None)
        return codec.encode(Batch(self.x, self.y, named if len(named) == len(self.ids) else None))

    @property
    def batches(self) -> int:
        """How many batches the samples come from."""
        return len({ref.batch for ref in self.refs})


@dataclass(frozen=True, slots=True)
class CommandCut:
    """One command, which lies between two cursors."""

    start: Cursor
    end: Cursor
    entry: Entry


@dataclass(frozen=True, slots=True)
class BrokenCut:
    """One delivery whose payload cannot be read, with what was raised."""

    start: Cursor
    end: Cursor
    entry: Entry
    error: Exception


Cut = StepCut | CommandCut | BrokenCut


@dataclass(slots=True)
class _Pending:
    """An entry read from the log: its samples that take part, their indices, and how many of them have been cut."""

    entry: Entry
    batch: Batch | None = None
    indices: Sequence[int] = ()
    done: int = 0
    error: Exception | None = None

    @property
    def left(self) -> int:
        """Samples that wait to be cut."""
        return len(self.indices) - self.done

    @property
    def alone(self) -> bool:
        """Whether it makes a cut of its own: a command, or what cannot be read."""
        return self.batch is None


@dataclass(frozen=True, slots=True)
class _Span:
    """Neighbouring rows of a pending batch."""

    entry: Entry
    batch: Batch
    indices: Sequence[int]
    rows: slice


class Cutter:
    """Reads the log in order from a cursor and cuts the next step or command off it.

    Samples that ``keep`` refuses are passed over as if they had never come.
    """

    def __init__(self, log: Log, *, step_size: int, keep: Keep | None = None) -> None:
        self._log = log
        self._step_size = step_size
        self._keep = keep
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

    def cut(
        self, *, partial: bool, until: Cursor | None = None, end: int | None = None, single: bool = False
    ) -> Cut | None:
        """Cut the next command, or up to ``step_size`` samples (fewer only when ``partial``), none past ``end``.

        With ``until`` it is all samples up to there, however many a step has now: a cut that is on record stands.
        With ``single`` it takes the samples of one batch alone.
        """
        self._fill(until, end)
        if until is None:
            self._pass_over_the_empty()
        if not self._pending:
            return None
        if self._pending[0].alone:
            return self._cut_entry(self._pending.popleft())
        if until is not None:
            return self._cut_until(until)
        samples = sum(p.left for p in self._ready())
        if samples < self._step_size and not partial and not single and len(self._ready()) == len(self._pending):
            return None
        return self._cut_samples(single=single)

    def _fill(self, until: Cursor | None, end: int | None) -> None:
        """Read on until a step's worth of samples, a command or ``until`` is in hand, or the log ends."""
        while (wanted := self._wanted(until)) > 0:
            if end is not None:
                wanted = min(wanted, end - self.read)
            entries = self._log.read(self.read, min(MOST_ENTRIES, wanted)) if wanted > 0 else []
            if not entries:
                return
            self._pending.extend(self._opened(entry) for entry in entries)

    def _wanted(self, until: Cursor | None) -> int:
        """How many more entries the next cut needs, as far as can be told; 0 or less when it has enough."""
        if until is not None:
            return until.position + (until.offset > 0) - self.read
        if not self._pending:
            return 1  # whether deliveries are small or large is not known yet
        if any(p.alone for p in self._pending):
            return 0
        missing = self._step_size - sum(p.left for p in self._pending)
        return max(1, missing // max(1, self._pending[-1].left)) if missing > 0 else 0

    def _opened(self, entry: Entry) -> _Pending:
        if entry.kind is not EntryKind.BATCH:
            return _Pending(entry)
        try:
            batch, indices = codec.load_kept(entry.payload)
        except Exception as error:  # whatever is wrong with the bytes, they make no batch
            return _Pending(entry, error=error)
        begun = self.cursor.offset if entry.position == self.cursor.position + 1 else 0
        done = bisect_left(indices, begun)
        if self._keep is not None:
            rows = [row for row in range(done, len(indices)) if self._keep(entry, indices[row])]
            ids = None if batch.ids is None else tuple(batch.ids[row] for row in rows)
            batch, indices, done = Batch(batch.x[rows], batch.y[rows], ids), [indices[row] for row in rows], 0
        return _Pending(entry, batch, indices, done)

    def _pass_over_the_empty(self) -> None:
        while self._pending and not self._pending[0].alone and not self._pending[0].left:
            self.cursor = Cursor(self._pending.popleft().entry.position)

    def _ready(self) -> list[_Pending]:
        """The batches before the first entry that makes a cut of its own."""
        alone = next((place for place, p in enumerate(self._pending) if p.alone), len(self._pending))
        return list(self._pending)[:alone]

    def _cut_entry(self, pending: _Pending) -> CommandCut | BrokenCut:
        start, self.cursor = self.cursor, Cursor(pending.entry.position)
        if pending.error is not None:
            return BrokenCut(start, self.cursor, pending.entry, pending.error)
        return CommandCut(start, self.cursor, pending.entry)

    def _cut_until(self, until: Cursor) -> StepCut:
        spans = []
        while self._pending and self._pending[0].entry.position <= until.position:
            pending = self._pending.popleft()
            if not pending.alone:
                spans.append(_take(pending, pending.left))
        if self._pending and not self._pending[0].alone and until.offset:
            pending = self._pending[0]
            spans.append(_take(pending, bisect_left(pending.indices, until.offset) - pending.done))
        return self._joined(spans, until)

    def _cut_samples(self, *, single: bool) -> StepCut:
        spans: list[_Span] = []
        room, end = self._step_size, self.cursor
        for pending in self._ready()[: 1 if single else None]:
            if room == 0:
                break
            taken = min(room, pending.left)
            spans.append(_take(pending, taken))
            room -= taken
            position = pending.entry.position
            end = Cursor(position - 1, pending.indices[pending.done - 1] + 1) if pending.left else Cursor(position)
            if not pending.left:
                self._pending.popleft()
        return self._joined(spans, end)

    def _joined(self, spans: list[_Span], end: Cursor) -> StepCut:
        start, self.cursor = self.cursor, end
        refs: list[SampleRef] = []
        producers: list[str] = []
        ids: list[str | None] = []
        for span in spans:
            indices = span.indices[span.rows]
            refs += [SampleRef(span.entry.id, index) for index in indices]
            producers += [span.entry.producer] * len(indices)
            ids += span.batch.ids[span.rows] if span.batch.ids else [None] * len(indices)
        return StepCut(
            start,
            end,
            x=join([span.batch.x[span.rows] for span in spans]),
            y=torch.cat([span.batch.y[span.rows] for span in spans]) if spans else torch.empty(0, dtype=torch.int64),
            refs=tuple(refs),
            producers=tuple(producers),
            ids=tuple(ids),
        )


def _take(pending: _Pending, samples: int) -> _Span:
    """The next samples of a batch, which count as cut from now on."""
    assert pending.batch is not None
    rows = slice(pending.done, pending.done + samples)
    pending.done += samples
    return _Span(pending.entry, pending.batch, pending.indices, rows)


def join(parts: Sequence[Tensor]) -> Tensor:
    """One tensor of all parts; deliveries may differ in dtype, and uint8 then takes its scale along."""
    parts = [part for part in parts if len(part)] or list(parts[:1]) or [torch.empty(0)]
    if len({part.dtype for part in parts}) > 1:
        parts = [p.float() / 255 if p.dtype == torch.uint8 else p.float() for p in parts]
    return torch.cat(parts)
