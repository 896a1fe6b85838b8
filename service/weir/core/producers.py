"""Evidence per producer: the newest samples of each, judged together."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.calibration import Calibration, group_threshold
from weir.core.config import GuardConfig
from weir.types import ProducerReport, SampleVerdict, Standing, State, Verdict

MOST_PRODUCERS = 10_000  # memory is bounded even when every sample names a new one


class _Chunk(NamedTuple):
    """One step's samples of a producer: how many of each class, and the sum of every column of normal scores."""

    classes: dict[int, int]
    sums: list[float]

    def __len__(self) -> int:
        return sum(self.classes.values())


@dataclass(slots=True)
class _Window:
    """Normal scores of the newest samples of one producer."""

    chunks: deque[_Chunk] = field(default_factory=deque)
    seen: int = 0
    held: int = 0
    corrected: int = 0
    score: float | None = None
    watched: bool = False


class Producers:
    """A window of calibrated evidence for every producer, forgotten least recently seen first."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def observe(
        self, normal: Tensor, labels: Sequence[int], producers: Sequence[str], calibration: Calibration
    ) -> frozenset[str]:
        """Take one step's normal scores (n, k) with the label and the producer of each row; returns who alarms."""
        index: dict[str, list[int]] = {}
        for row, producer in enumerate(producers):
            index.setdefault(producer, []).append(row)
        threshold = group_threshold(self._config.producer_rate, normal.shape[1])
        alarmed = set()
        for producer, rows in index.items():
            window = self._window(producer)
            chunk = _Chunk(dict(Counter(labels[row] for row in rows)), normal[rows].sum(0).tolist())
            window.score = self._extend(window, chunk, calibration)
            window.watched = window.score > threshold
            if window.watched:
                alarmed.add(producer)
        return frozenset(alarmed)

    def count(self, producers: Sequence[str], verdicts: Sequence[SampleVerdict]) -> None:
        """Count what became of one step's samples."""
        for producer, verdict in zip(producers, verdicts, strict=True):
            window = self._window(producer)
            window.seen += 1
            window.held += verdict.verdict is Verdict.QUARANTINE
            window.corrected += verdict.verdict is Verdict.CORRECT

    def report(self) -> tuple[ProducerReport, ...]:
        """Every known producer's record, least recently seen first."""
        columns = next((len(w.chunks[0].sums) for w in self._windows.values() if w.chunks), None)
        threshold = group_threshold(self._config.producer_rate, columns) if columns else None
        return tuple(
            ProducerReport(
                producer=name,
                seen=window.seen,
                held=window.held,
                corrected=window.corrected,
                score=window.score,
                threshold=threshold,
                standing=Standing.WATCHED if window.watched else Standing.GOOD,
            )
            for name, window in self._windows.items()
        )

    def state(self) -> State:
        """Everything a restart needs."""
        windows = {
            name: {
                "chunks": [[list(chunk.classes.items()), chunk.sums] for chunk in window.chunks],
                "counts": [window.seen, window.held, window.corrected],
                "score": window.score,
                "watched": window.watched,
            }
            for name, window in self._windows.items()
        }
        return State({}, {"windows": windows, "order": list(self._windows)})

    def load_state(self, state: State, *, windows: bool = True) -> None:
        """Replace every producer's record; without ``windows`` the evidence starts anew and the counts go on."""
        self._windows = OrderedDict()
        for name in state.values["order"]:
            kept = state.values["windows"][name]
            seen, held, corrected = kept["counts"]
            chunks = deque(_Chunk(dict(map(tuple, classes)), list(sums)) for classes, sums in kept["chunks"] if windows)
            self._windows[name] = _Window(chunks, seen, held, corrected, kept["score"], kept["watched"])

    def _window(self, producer: str) -> _Window:
        window = self._windows.setdefault(producer, _Window())
        self._windows.move_to_end(producer)
        if len(self._windows) > MOST_PRODUCERS:
            self._windows.popitem(last=False)
        return window

    def _extend(self, window: _Window, chunk: _Chunk, calibration: Calibration) -> float:
        window.chunks.append(chunk)
        total = sum(map(len, window.chunks))
        while total - len(window.chunks[0]) >= self._config.producer_window:
            total -= len(window.chunks.popleft())
        sums = torch.tensor([chunk.sums for chunk in window.chunks], dtype=torch.float64).sum(0)
        classes: Counter[int] = Counter()
        for chunk in window.chunks:
            classes.update(chunk.classes)
        return calibration.group_statistic(sums / total, classes)
