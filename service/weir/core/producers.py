"""Evidence per producer: the newest samples of each judged together, and sequential evidence over all of them."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core import mixture
from weir.core.calibration import Calibration, Scores, group_threshold
from weir.core.config import GuardConfig
from weir.core.roster import Roster
from weir.types import ProducerReport, SampleVerdict, Standing, State, Verdict

MOST_PRODUCERS = 10_000  # memory is bounded even when every sample names a new one
MAJORITY = 0.75  # suspect share from which on a producer is held whole, and not sample by sample
CHUNKS = 16  # of a window, about: but for the newest, a chunk has a sixteenth of it at least, rounded down
ALLOWANCE = 0.25  # standard deviations per sample that sequential evidence forgives, beyond what calibration may be off


class _Chunk(NamedTuple):
    """Some samples of a producer: how many of each class, and the sum (columns,) of their normal scores."""

    classes: Counter[int]
    sums: Tensor

    def joined(self, later: _Chunk) -> _Chunk:
        """These samples and later ones."""
        return _Chunk(self.classes + later.classes, self.sums + later.sums)


@dataclass(slots=True)
class _Window:
    """A producer's newest samples, in chunks, and how many of each class these are."""

    chunks: deque[_Chunk] = field(default_factory=deque)
    classes: Counter[int] = field(default_factory=Counter)

    def copy(self) -> _Window:
        """Another one of the same samples."""
        return _Window(self.chunks.copy(), self.classes.copy())

    def take(self, chunk: _Chunk, size: int) -> None:
        """Add samples, and let go of the oldest chunks that ``size`` samples are covered without.

        One that is small grows: who sends samples one by one would have ``size`` chunks.
        """
        if self.chunks and self.chunks[-1].classes.total() < size // CHUNKS:
            self.chunks[-1] = self.chunks[-1].joined(chunk)
        else:
            self.chunks.append(chunk)
        self.classes.update(chunk.classes)
        while self.classes.total() - self.chunks[0].classes.total() >= size:
            self.classes -= self.chunks.popleft().classes


@dataclass(slots=True)
class _Record:
    """What is known of one producer.

    ``cumulative`` is the CUSUM of every column, ``believed`` the counts of clean samples and of each attack that its
    samples stand for.
    """

    window: _Window = field(default_factory=_Window)
    seen: int = 0
    held: int = 0
    corrected: int = 0
    score: float | None = None
    cumulative: list[float] = field(default_factory=list)
    believed: list[float] = field(default_factory=list)
    standing: Standing = Standing.GOOD

    @property
    def suspect_share(self) -> float:
        return 1 - self.believed[0] / math.fsum(self.believed) if self.believed else 0.0

    def copy(self) -> _Record:
        """Another one that knows the same."""
        return replace(self, window=self.window.copy(), cumulative=[*self.cumulative], believed=[*self.believed])


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

    def observe(self, scores: Scores, roster: Roster, calibration: Calibration) -> Mapping[str, Alarm]:
        """Take one step's scores, of the rows of a roster; returns who alarms."""
        self._measured_in(calibration.columns)
        records = [self._record(producer) for producer in roster.rows]
        sums = roster.sums(scores.normal.cpu())
        self._believe(records, scores.ratios, roster)
        self._extend(records, sums, roster, calibration)
        self._accumulate(records, sums, roster, calibration)
        return {
            producer: Alarm(
                whole=record.standing is Standing.SUSPENDED or record.suspect_share >= MAJORITY,
                believed=torch.tensor(record.believed, dtype=torch.float64),
            )
            for producer, record in zip(roster.rows, records, strict=True)
            if record.standing is not Standing.GOOD
        }

    def foresee(
        self, scores: Scores, roster: Roster, calibration: Calibration, *, slack: Tensor, cleared: Container[str] = ()
    ) -> Tensor:
        """The z (slacks, producers) that each one's newest samples would have, were this step's scores observed.

        With each ``slack`` (slacks, columns) more in their mean score, and the evidence of those ``cleared`` forgotten.
        """
        unknown = _Record()
        records = [unknown if name in cleared else self._records.get(name, unknown) for name in roster.rows]
        windows = [record.window.copy() for record in records]
        self._take(windows, roster.sums(scores.normal.cpu()), roster)
        return _statistics(windows, calibration, slack=slack[:, None])

    def standing(self, producers: Iterable[str]) -> dict[str, Standing]:
        """How each of them stands."""
        known = self._records
        return {name: known[name].standing if name in known else Standing.GOOD for name in producers}

    def recollection(self, producers: Iterable[str]) -> Mapping[str, _Record]:
        """What is known of a step's producers, for ``recollect``: the step may have to be looked at again."""
        return {name: self._records[name].copy() if name in self._records else _Record() for name in producers}

    def recollect(self, known: Mapping[str, _Record]) -> None:
        """Know of these producers what was known of them then; the order in which they were heard of last stays."""
        self._records |= {name: record.copy() for name, record in known.items()}

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
                "chunks": [list(chunk.classes.items()) for chunk in record.window.chunks],
                "counts": [record.seen, record.held, record.corrected],
                "score": record.score,
                "cumulative": record.cumulative,
                "believed": record.believed,
                "standing": record.standing,
            }
            for name, record in self._records.items()
        }
        sums = [chunk.sums for record in self._records.values() for chunk in record.window.chunks]
        tensors = {"sums": torch.stack(sums)} if sums else {}
        return State(tensors, {"records": records, "order": list(self._records)})

    def load_state(self, state: State, *, evidence: bool = True) -> None:
        """Replace every producer's record; without ``evidence`` that starts anew and the counts go on."""
        self._records = OrderedDict()
        sums = iter(state.tensors.get("sums", torch.empty(0)))
        for name in state.values["order"]:
            kept = state.values["records"][name]
            record = self._records[name] = _Record()
            record.seen, record.held, record.corrected = kept["counts"]
            if evidence:
                for chunk in kept["chunks"]:
                    if "sums" in state.tensors:
                        classes, own = chunk, next(sums).clone()
                    else:  # earlier versions kept them as values
                        classes, own = chunk[0], torch.tensor(chunk[1], dtype=torch.float64)
                    record.window.take(_Chunk(Counter(dict(classes)), own), self._config.producer_window)
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

    def _believe(self, records: Sequence[_Record], ratios: Tensor, roster: Roster) -> None:
        """Move what is believed of each with the likelihood ratios (n, attacks) of its rows."""
        unknown = mixture.prior(ratios.shape[1]).tolist()
        before = torch.tensor([record.believed or unknown for record in records], dtype=torch.float64)
        after = mixture.update_each(before, ratios, roster.place).tolist()
        for record, believed in zip(records, after, strict=True):
            record.believed = believed

    def _extend(self, records: Sequence[_Record], sums: Tensor, roster: Roster, calibration: Calibration) -> None:
        """Judge the newest samples of each together."""
        bound = group_threshold(self._config.producer_rate, calibration.columns)
        windows = [record.window for record in records]
        self._take(windows, sums, roster)
        for record, score in zip(records, _statistics(windows, calibration).tolist(), strict=True):
            record.score = score
            if record.standing is not Standing.SUSPENDED:
                record.standing = Standing.WATCHED if score > bound else Standing.GOOD

    def _take(self, windows: Sequence[_Window], sums: Tensor, roster: Roster) -> None:
        """Add a step's sums (windows, columns) to the window of each of its producers."""
        for window, classes, own in zip(windows, roster.classes, sums, strict=True):
            window.take(_Chunk(classes, own.clone()), self._config.producer_window)  # a view would keep all the sums

    def _accumulate(self, records: Sequence[_Record], sums: Tensor, roster: Roster, calibration: Calibration) -> None:
        """Move the CUSUM of every column with the sums (records, columns) of a step, and the standings with it."""
        limit = self._limit(calibration.columns)
        certain = group_threshold(self._config.producer_rate, calibration.columns)
        shared = [calibration.shared_variance(record.window.classes) for record in records]
        forgiven = ALLOWANCE + certain * torch.tensor(shared, dtype=torch.float64).sqrt()
        sizes = torch.tensor([len(rows) for rows in roster.rows.values()])
        start = [0.0] * calibration.columns
        before = torch.tensor([record.cumulative or start for record in records], dtype=torch.float64)
        moved = (before + sums - (sizes * forgiven)[:, None]).nan_to_num(0.0)
        after = moved.clamp(0.0, 2 * limit)  # capped, so that amends can be made
        for record, cumulative in zip(records, after.tolist(), strict=True):
            record.cumulative = cumulative
            highest = max(cumulative)
            if highest >= limit and record.suspect_share >= MAJORITY:
                record.standing = Standing.SUSPENDED
            elif highest == 0.0 and record.standing is Standing.SUSPENDED:
                record.standing = Standing.GOOD

    def _limit(self, columns: int) -> float:
        return math.log(columns / self._config.producer_rate) / (2 * ALLOWANCE)


def _statistics(windows: Sequence[_Window], calibration: Calibration, *, slack: Tensor | float = 0.0) -> Tensor:
    """How far the samples of each window (…, windows) stand out together, as a z; with ``slack`` more in their mean."""
    owner = torch.tensor([place for place, window in enumerate(windows) for _ in window.chunks])
    chunks = torch.stack([chunk.sums for window in windows for chunk in window.chunks])
    sums = torch.zeros(len(windows), chunks.shape[1], dtype=torch.float64).index_add_(0, owner, chunks)
    sizes = torch.tensor([window.classes.total() for window in windows])[:, None]
    return calibration.group_statistics(sums / sizes + slack, [window.classes for window in windows])
