"""Evidence per producer: the newest samples of each judged together, and sequential evidence over all of them."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core import mixture
from weir.core.calibration import Calibration, Scores, group_threshold
from weir.core.config import GuardConfig
from weir.types import ProducerReport, SampleVerdict, Standing, State, Verdict

MOST_PRODUCERS = 10_000  # memory is bounded even when every sample names a new one
MAJORITY = 0.75  # suspect share from which on a producer is held whole, and not sample by sample
ALLOWANCE = 0.25  # standard deviations per sample that sequential evidence forgives, beyond what calibration may be off


class _Chunk(NamedTuple):
    """One step's samples of a producer: how many of each class, and the sum of every column of normal scores."""

    classes: dict[int, int]
    sums: list[float]

    @staticmethod
    def of(scores: Scores, labels: Sequence[int], rows: Sequence[int]) -> _Chunk:
        """These rows of a step's scores."""
        return _Chunk(dict(Counter(labels[row] for row in rows)), scores.normal[list(rows)].sum(0).tolist())

    def __len__(self) -> int:
        return sum(self.classes.values())


@dataclass(slots=True)
class _Record:
    """What is known of one producer.

    ``chunks`` hold the newest samples, ``classes`` how many of each class these are, ``cumulative`` the CUSUM of every
    column, ``believed`` the counts of clean samples and of each attack that its samples stand for.
    """

    chunks: deque[_Chunk] = field(default_factory=deque)
    classes: Counter[int] = field(default_factory=Counter)
    seen: int = 0
    held: int = 0
    corrected: int = 0
    score: float | None = None
    cumulative: list[float] = field(default_factory=list)
    believed: list[float] = field(default_factory=list)
    standing: Standing = Standing.GOOD

    def take(self, chunk: _Chunk, window: int) -> None:
        """Add a chunk, and let go of those that ``window`` samples are covered without."""
        self.chunks.append(chunk)
        self.classes.update(chunk.classes)
        while self.classes.total() - len(self.chunks[0]) >= window:
            self.classes.subtract(self.chunks.popleft().classes)

    def statistic(self, calibration: Calibration) -> float:
        """How far the newest samples stand out together, as a z."""
        sums = torch.tensor([chunk.sums for chunk in self.chunks], dtype=torch.float64).sum(0)
        return calibration.group_statistic(sums / self.classes.total(), self.classes)

    @property
    def suspect_share(self) -> float:
        return 1 - self.believed[0] / math.fsum(self.believed) if self.believed else 0.0


class Alarm(NamedTuple):
    """A producer whose samples together are suspect: all of them, or those to be picked by ``believed``."""

    whole: bool
    believed: Tensor


class Producers:
    """A record of calibrated evidence for every producer, forgotten least recently seen first.

    Two tests: the newest ``producer_window`` samples against chance (watched), and a CUSUM over all of them. A
    producer is suspended when its CUSUM passes ln(columns / rate) / (2 · ALLOWANCE) while most of its samples look
    like an attack; it is in good standing again when the CUSUM is back at nought. By Lundberg's inequality at most
    ``producer_rate`` of a clean producer's excursions from nought get that far (Page, 1954; Siegmund, 1985).
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._columns: int | None = None  # of the evidence that the records hold, None without any
        self._reports: dict[str, ProducerReport] = {}
        self._changed: dict[str, None] = {}  # since they were reported, in the order of the records

    def observe(
        self, scores: Scores, labels: Sequence[int], producers: Sequence[str], calibration: Calibration
    ) -> Mapping[str, Alarm]:
        """Take one step's scores with the label and the producer of each row; returns who alarms."""
        self._measured_in(calibration.columns)
        alarms = {}
        for producer, rows in rows_of(producers).items():
            record = self._record(producer)
            chunk = _Chunk.of(scores, labels, rows)
            believed = self._believe(record, scores.ratios[rows])
            self._extend(record, chunk, calibration)
            self._accumulate(record, chunk, calibration)
            if record.standing is not Standing.GOOD:
                whole = record.standing is Standing.SUSPENDED or record.suspect_share >= MAJORITY
                alarms[producer] = Alarm(whole, believed)
        return alarms

    def foresee(
        self, scores: Scores, labels: Sequence[int], producers: Sequence[str], calibration: Calibration
    ) -> float:
        """The largest z that the newest samples of any producer would have, were this step's scores observed."""
        highest = -math.inf
        for producer, rows in rows_of(producers).items():
            known = self._records.get(producer, _Record())
            trial = _Record(deque(known.chunks), Counter(known.classes))
            trial.take(_Chunk.of(scores, labels, rows), self._config.producer_window)
            highest = max(highest, trial.statistic(calibration))
        return highest

    def count(self, producers: Sequence[str], verdicts: Sequence[SampleVerdict]) -> None:
        """Count what became of one step's samples."""
        became = Counter(zip(producers, (verdict.verdict for verdict in verdicts), strict=True))
        for (producer, verdict), count in became.items():
            record = self._record(producer)
            record.seen += count
            record.held += count * (verdict is Verdict.QUARANTINE)
            record.corrected += count * (verdict is Verdict.CORRECT)

    def report(self) -> tuple[ProducerReport, ...]:
        """Every known producer's record, least recently seen first.

        Only the reports of those seen since the last call are made: there may be thousands of others.
        """
        for name in self._changed:
            self._reports.pop(name, None)  # put in again at the end, where the record is
            self._reports[name] = self._reported(name)
        self._changed.clear()
        return tuple(self._reports.values())

    def state(self) -> State:
        """Everything a restart needs."""
        records = {
            name: {
                "chunks": [[list(chunk.classes.items()), chunk.sums] for chunk in record.chunks],
                "counts": [record.seen, record.held, record.corrected],
                "score": record.score,
                "cumulative": record.cumulative,
                "believed": record.believed,
                "standing": record.standing,
            }
            for name, record in self._records.items()
        }
        return State({}, {"records": records, "order": list(self._records)})

    def load_state(self, state: State, *, evidence: bool = True) -> None:
        """Replace every producer's record; without ``evidence`` that starts anew and the counts go on."""
        self._records = OrderedDict()
        for name in state.values["order"]:
            kept = state.values["records"][name]
            record = self._records[name] = _Record()
            record.seen, record.held, record.corrected = kept["counts"]
            if evidence:
                for classes, sums in kept["chunks"]:
                    record.take(_Chunk(dict(map(tuple, classes)), list(sums)), self._config.producer_window)
                record.score = kept["score"]
                record.cumulative, record.believed = list(kept["cumulative"]), list(kept["believed"])
                record.standing = Standing(kept["standing"])
        self._columns = next((len(r.cumulative) for r in self._records.values() if r.cumulative), None)
        self._report_anew()

    def forget(self) -> None:
        """Start the evidence anew, since it has another meaning now; the counts go on."""
        self.load_state(self.state(), evidence=False)

    def clear(self, producers: Iterable[str]) -> None:
        """Start the evidence of some producers anew, and their standing with it; the counts go on."""
        for producer in producers:
            record = self._record(producer)
            self._records[producer] = _Record(seen=record.seen, held=record.held, corrected=record.corrected)

    def _record(self, producer: str) -> _Record:
        record = self._records.setdefault(producer, _Record())
        self._records.move_to_end(producer)
        self._changed.pop(producer, None)
        self._changed[producer] = None
        if len(self._records) > MOST_PRODUCERS:
            forgotten, _ = self._records.popitem(last=False)
            self._reports.pop(forgotten, None)
            self._changed.pop(forgotten, None)
        return record

    def _measured_in(self, columns: int) -> None:
        """So many columns make the thresholds, which are in everybody's report."""
        if columns != self._columns:
            self._columns = columns
            self._report_anew()

    def _report_anew(self) -> None:
        self._reports.clear()
        self._changed = dict.fromkeys(self._records)

    def _reported(self, name: str) -> ProducerReport:
        record, columns = self._records[name], self._columns
        return ProducerReport(
            producer=name,
            seen=record.seen,
            held=record.held,
            corrected=record.corrected,
            score=record.score,
            threshold=group_threshold(self._config.producer_rate, columns) if columns else None,
            sequential_score=max(record.cumulative) if record.cumulative else None,
            sequential_threshold=self._limit(columns) if columns else None,
            suspect_share=record.suspect_share if record.believed else None,
            standing=record.standing,
        )

    def _believe(self, record: _Record, ratios: Tensor) -> Tensor:
        before = torch.tensor(record.believed, dtype=torch.float64)
        believed = mixture.update(before if len(before) else mixture.prior(ratios.shape[1]), ratios)
        record.believed = believed.tolist()
        return believed

    def _extend(self, record: _Record, chunk: _Chunk, calibration: Calibration) -> None:
        """Judge the newest samples together."""
        record.take(chunk, self._config.producer_window)
        record.score = record.statistic(calibration)
        if record.standing is not Standing.SUSPENDED:
            alarmed = record.score > group_threshold(self._config.producer_rate, calibration.columns)
            record.standing = Standing.WATCHED if alarmed else Standing.GOOD

    def _accumulate(self, record: _Record, chunk: _Chunk, calibration: Calibration) -> None:
        """Move the CUSUM of every column, and the standing with it."""
        limit = self._limit(calibration.columns)
        certain = group_threshold(self._config.producer_rate, calibration.columns)
        forgiven = ALLOWANCE + certain * math.sqrt(calibration.shared_variance(record.classes))
        before = record.cumulative or [0.0] * calibration.columns
        moved = (held + rise - len(chunk) * forgiven for held, rise in zip(before, chunk.sums, strict=True))
        record.cumulative = [min(max(0.0, value), 2 * limit) for value in moved]  # capped, so that amends can be made
        highest = max(record.cumulative)
        if highest >= limit and record.suspect_share >= MAJORITY:
            record.standing = Standing.SUSPENDED
        elif highest == 0.0 and record.standing is Standing.SUSPENDED:
            record.standing = Standing.GOOD

    def _limit(self, columns: int) -> float:
        return math.log(columns / self._config.producer_rate) / (2 * ALLOWANCE)


def rows_of(producers: Sequence[str]) -> dict[str, list[int]]:
    """The rows of a step by who sent them, in the order in which they are heard of first."""
    rows: dict[str, list[int]] = {}
    for row, producer in enumerate(producers):
        rows.setdefault(producer, []).append(row)
    return rows
