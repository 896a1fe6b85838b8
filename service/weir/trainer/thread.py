"""The trainer: the one thread that learns, and what it lets others see."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from weir.core import Engine, EngineConfig, Reader
from weir.core.vaccine import Poisoner
from weir.stores.base import CheckpointInfo, Stores
from weir.stores.bell import Bell
from weir.trainer.course import Course, TrainerConfig
from weir.trainer.patience import Patience
from weir.trainer.replays import Replays
from weir.trainer.rerun import NewEngine, engines
from weir.types import LearnerStatus, Publication, StepReport

logger = logging.getLogger("weir.trainer")
IDLE_SECONDS = 0.5  # longest wait for the log: how late a stop is noticed
NICENESS = 10  # of the learning thread, above the process's own
Listener = Callable[[StepReport], None]


class Trainer:
    """Owns the engine; everything else sends entries through the log and reads frozen values.

    ``publication`` and ``status`` may be read from any thread at any time; ``news`` rings when one of them is new.
    ``replays`` run beside it.
    """

    def __init__(
        self,
        stores: Stores,
        engine: EngineConfig,
        config: TrainerConfig,
        *,
        poisoner: Poisoner | None = None,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], float] = time.time,
        own_engine: NewEngine | None = None,
    ) -> None:
        """Resume from the newest checkpoint; ``own_engine`` makes the engine that learns, where others share its work.

        Raises NotReady when there is no checkpoint, DamagedCheckpoint when none loads.
        """
        self._config = config
        self._listeners = listeners
        self._failure: str | None = None
        self._waits_for: str | None = None
        self._stopping = threading.Event()
        self.news = Bell()
        self._newest_at = time.monotonic()  # when the publication was the newest for certain, while nothing learns
        self._deadline = 0.0
        self._waiting_since: float | None = None  # when a step that is not full yet was first seen
        self._thread = threading.Thread(target=self._run, name="weir-trainer", daemon=True)
        self._checkpoints = stores.checkpoints
        patient = Patience(self._stopping, self._say_what_it_waits_for).over(stores)
        self._course = Course(
            patient, engines(engine, poisoner), config, tell=self._tell, clock=clock, own_engine=own_engine
        )
        self._reader = Reader(self.engine.recipe, device=engine.device)
        self.publication = self._published()
        self.status = self._measured()
        self.replays = Replays(stores, engines(engine, poisoner), status=lambda: self.status, clock=clock)

    @property
    def engine(self) -> Engine:
        """The engine; the trainer's own once it runs."""
        return self._course.engine

    @property
    def staleness(self) -> float:
        """Seconds since the publication was last known to be the newest: 0 while it learns."""
        return 0.0 if self._thread.is_alive() else time.monotonic() - self._newest_at

    def attend(self) -> None:
        """Nothing: ``status`` and ``publication`` are new at once for whoever is in this process."""

    def checkpoints(self) -> Sequence[CheckpointInfo]:
        """The headers of the checkpoints, oldest first."""
        return self._checkpoints.all()

    def start(self) -> None:
        """Start learning."""
        self._show(replace(self.status, alive=True))  # before the thread: from then on the engine is its own
        self._thread.start()

    def stop(self, *, drain_seconds: float = 10.0) -> None:
        """Learn what is in the log for at most ``drain_seconds``, write a checkpoint and end the thread."""
        self._deadline = time.monotonic() + drain_seconds
        self._stopping.set()
        self.replays.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        _give_way()
        try:
            while not self._stopping.is_set():
                self._turn()
            while time.monotonic() < self._deadline and self._advance(partial=True):
                pass
            self._course.checkpoint("stop")
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            logger.exception("the trainer stopped at step %d", self._course.step)
        finally:
            # Not measured anew: an engine that has just failed may fail again, and that must not hide its death.
            checkpoint = self._course.checkpoint_id
            self._newest_at = time.monotonic()
            self._show(replace(self.status, alive=False, failure=self._failure, checkpoint=checkpoint))

    def _turn(self) -> None:
        """One step or command, or one bounded wait for more of the log."""
        if self._advance(partial=False):
            self._waiting_since = None
            return
        left = IDLE_SECONDS
        if self._course.waiting:
            now = time.monotonic()
            self._waiting_since = now if self._waiting_since is None else self._waiting_since
            left = min(left, self._waiting_since + self._config.step_linger_seconds - now)
        if left > 0:
            self._course.stores.log.wait(self._course.read, left)
        elif self._advance(partial=True):
            self._waiting_since = None

    def _advance(self, *, partial: bool) -> bool:
        if not self._course.advance(partial=partial):
            return False
        if self._course.step >= self.publication.step:  # less while a step that failed is approached again
            self.publication = self._published()
            self._show(self._measured())
        return True

    def _tell(self, report: StepReport) -> None:
        counts: Mapping[str, Any] = {verdict.value: count for verdict, count in report.counts.items()}
        gate = report.gate
        said = {
            "veto": report.vetoed,
            "decline": gate is not None and gate.declined,
            "rolled back to the best": gate is not None and gate.rolled_back,
            "shortened": gate is not None and gate.shortened,
            "from rest": gate is not None and gate.rested,
            "drift": report.drift,
            "breaker open: set the mode to close it": report.breaker_open,
        }
        why = ", ".join([*report.alarms, *(words for words, so in said.items() if so)])
        level = logging.WARNING if why else logging.INFO
        logger.log(level, "step %d: %s%s", report.step, dict(counts), f" ({why})" if why else "")
        for listener in self._listeners:
            listener(report)

    def _say_what_it_waits_for(self, what: str | None) -> None:
        self._waits_for = what
        if self._thread.is_alive():
            self._show(replace(self.status, waits_for=what))

    def _show(self, status: LearnerStatus) -> None:
        self.status = status
        self.news.ring()

    def _published(self) -> Publication:
        copy = self._reader.copy(self.engine.weights())
        return Publication(self._course.step, self.engine.recipe, copy, copy.weights)

    def _measured(self) -> LearnerStatus:
        engine, counters = self.engine, self._course.counters
        return LearnerStatus(
            alive=self._thread.is_alive(),
            failure=self._failure,
            waits_for=self._waits_for,
            step=self._course.step,
            updates=engine.updates,
            position=self._course.cursor.position,
            mode=engine.mode,
            armed=engine.unarmed_because is None,
            unarmed_because=engine.unarmed_because,
            device=engine.config.device,
            parameters=engine.parameters,
            progressive_accuracy=engine.progressive_accuracy,
            probe_accuracy=engine.probe_accuracy(),
            probe=engine.probe,
            probe_stale=engine.probe_stale,
            drift=engine.drift,
            breaker_open=engine.breaker_open,
            vaccine_age=engine.vaccine_age,
            unvaccinated_because=engine.unvaccinated_because,
            sample_threshold=engine.sample_threshold,
            vetoes=counters["vetoes"],
            rollbacks=counters["rollbacks"],
            checkpoint=self._course.checkpoint_id,
            producers=engine.producers(),
        )


def _give_way() -> None:
    """Let whoever asks for a prediction or delivers a batch go first where there are fewer cores than threads.

    Linux has a priority for each thread, which the threads that torch starts from this one inherit. What it gives is in
    benchmarks/performance-notes.md.
    """
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
