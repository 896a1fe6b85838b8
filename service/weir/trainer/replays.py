"""Replays as jobs: they run beside the learner, on an engine of their own, and end as candidates to be published."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from weir.errors import Conflict, NotFound
from weir.stores.base import Stores
from weir.trainer.rerun import NewEngine, Rerun, discarded
from weir.types import LearnerStatus, ReplayOrder, ReplayReport, ReplayState

logger = logging.getLogger("weir.trainer.replays")
REMEMBERED = 20


class Replays:
    """One replay at a time, each in a thread of its own; ended ones are remembered, the newest 20."""

    def __init__(
        self,
        stores: Stores,
        new_engine: NewEngine,
        *,
        status: Callable[[], LearnerStatus],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stores = stores
        self._new_engine = new_engine
        self._status = status
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._reports: dict[str, ReplayReport] = {}
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, order: ReplayOrder, by: str) -> ReplayReport:
        """Begin one.

        Raises NotFound for a checkpoint that is not there, and Conflict while another replay runs or when the log no
        longer reaches back to the checkpoint.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise Conflict("a replay is running: wait for it, or cancel it", code="replay_running")
            order = replace(order, samples=(*order.samples, *sorted(discarded(self._stores))))
            rerun = Rerun.of(self._stores, self._new_engine, order)
            report = self._begun(rerun, by)
            self._cancelled.clear()
            self._thread = threading.Thread(
                target=self._run, args=(report, rerun), name=f"weir-replay-{report.id}", daemon=True
            )
            self._thread.start()
        return report

    def get(self, id: str) -> ReplayReport:
        """One replay; raises NotFound."""
        if id not in self._reports:
            raise NotFound("replay", id)
        return self._reports[id]

    def all(self) -> list[ReplayReport]:
        """Those of this process, oldest first."""
        return list(self._reports.values())

    def cancel(self, id: str) -> ReplayReport:
        """Stop one and throw away what it did; raises NotFound, and Conflict when it has ended."""
        if self.get(id).state is not ReplayState.RUNNING:
            raise Conflict(f"the replay {id!r} has ended: there is nothing to cancel")
        self.stop()
        return self.get(id)

    def stop(self) -> None:
        """Cancel what runs, if anything does, and wait for its end."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join()

    def _begun(self, rerun: Rerun, by: str) -> ReplayReport:
        now, start = self._clock(), rerun.cursor.position
        id = f"r_{int(now)}_{next(self._numbers)}"
        report = ReplayReport(
            id, rerun.order, ReplayState.RUNNING, by, now, start=start, end=self._status().position, position=start
        )
        self._reports[id] = report
        for old in list(self._reports)[:-REMEMBERED]:
            del self._reports[old]
        return report

    def _run(self, report: ReplayReport, rerun: Rerun) -> None:
        try:
            while not self._cancelled.is_set() and rerun.advance(report.end, partial=False):
                report = self._say(_progress(report, rerun))
            if self._cancelled.is_set():
                self._say(replace(report, state=ReplayState.CANCELLED))
                return
            accuracy, now = rerun.engine.probe_accuracy(), self._status().probe_accuracy
            candidate = rerun.save(at=self._clock())
            report = replace(report, accuracy=accuracy, accuracy_now=now, candidate=candidate.id)
            self._say(replace(report, state=ReplayState.DONE))
        except Exception as error:  # it ends as a report: nothing else would hear of it
            logger.exception("the replay %s failed", report.id)
            self._say(replace(report, state=ReplayState.FAILED, error=f"{type(error).__name__}: {error}"))

    def _say(self, report: ReplayReport) -> ReplayReport:
        self._reports[report.id] = report
        return report


def _progress(report: ReplayReport, rerun: Rerun) -> ReplayReport:
    return replace(
        report,
        position=rerun.cursor.position,
        steps=report.steps + 1,
        held=rerun.held,
        learned=len(rerun.verdicts) - rerun.held,
        left_out=rerun.left_out,
    )
