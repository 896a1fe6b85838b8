"""The trainer: takes the log in order, cuts steps, journals what was decided, and tells the readers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weir import codec
from weir.core import Engine, EngineConfig, Reader
from weir.core.vaccine import Poisoner
from weir.errors import NotReady
from weir.stores.base import CheckpointInfo, Cursor, Decision, Held, Stores
from weir.trainer import commands
from weir.trainer.cutter import CommandCut, Cutter, StepCut
from weir.types import Batch, LearnerStatus, Publication, Reason, Recipe, State, Step, StepReport, Verdict

logger = logging.getLogger("weir.trainer")
IDLE_SECONDS = 0.5  # longest wait for the log: how late a stop is noticed
Listener = Callable[[StepReport], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How the log is cut and how often state is made durable."""

    step_size: int = 100
    step_linger_seconds: float = 0.2
    checkpoint_every: int = 500


def initialise(stores: Stores, engine: Engine, *, at: float, reason: str = "burn-in") -> CheckpointInfo:
    """Write an engine as the first checkpoint of a data folder, with the cursor at the end of its log."""
    cursor = Cursor(stores.log.tail())
    values = {"recipe": engine.recipe.to_values(), "counters": {"vetoes": 0, "rollbacks": 0}}
    state = State.merge(engine.state().nest("engine"), State({}, values))
    return stores.checkpoints.save(state, step=0, cursor=cursor, at=at, reason=reason)


def _newest(stores: Stores) -> tuple[CheckpointInfo, State]:
    found = stores.checkpoints.newest()
    if found is None:
        raise NotReady("this data folder holds no model yet: run `weir burnin` first")
    return found


class Trainer:
    """Owns the engine; everything else sends entries through the log and reads frozen values.

    ``publication`` and ``status`` may be read from any thread at any time.
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
    ) -> None:
        """Resume from the newest checkpoint; raises NotReady when there is none, DamagedCheckpoint when none loads."""
        self.stores = stores
        self._config = config
        self._listeners = listeners
        self._clock = clock
        info, state = _newest(stores)
        recipe = Recipe.from_values(state.values["recipe"])
        self.engine = Engine(recipe, engine, poisoner=poisoner, clock=time.perf_counter)
        self.engine.load_state(state.part("engine"))
        self.step = info.step
        self._counters: dict[str, int] = dict(state.values["counters"])
        self._checkpoint = info.id
        self._cutter = Cutter(stores.log, step_size=config.step_size)
        self._cutter.seek(info.cursor)
        self._recorded = {decision.start: decision for decision in stores.journal.after(info.cursor)}
        stores.log.consumed(info.cursor.position)
        self._reader = Reader(self.engine.recipe, device=engine.device)
        self._failure: str | None = None
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._waiting_since: float | None = None  # when a step that is not full yet was first seen
        self._thread = threading.Thread(target=self._run, name="weir-trainer", daemon=True)
        self.publication = self._published()
        self.status = self._measured()

    def start(self) -> None:
        """Start learning."""
        self.status = replace(self.status, alive=True)  # before the thread: from then on the engine is its own
        self._thread.start()

    def stop(self, *, drain_seconds: float = 10.0) -> None:
        """Learn what is in the log for at most ``drain_seconds``, write a checkpoint and end the thread."""
        self._deadline = time.monotonic() + drain_seconds
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def learn(self, step: Step) -> StepReport:
        """Process one step of released samples and tell the listeners."""
        report = self.engine.process(step)
        self._tell(report)
        return report

    def checkpoint(self, reason: str) -> CheckpointInfo:
        """Write a checkpoint of everything, with the cursor after what has been processed."""
        values = {"recipe": self.engine.recipe.to_values(), "counters": self._counters}
        state = State.merge(self.engine.state().nest("engine"), State({}, values))
        info = self.stores.checkpoints.save(
            state, step=self.step, cursor=self._cutter.cursor, at=self._clock(), reason=reason
        )
        self._checkpoint = info.id
        logger.info("checkpoint %s written at step %d (%s)", info.id, info.step, reason)
        return info

    def rolled_back(self) -> None:
        """Count a rollback."""
        self._counters["rollbacks"] += 1

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
            while time.monotonic() < self._deadline and self._advance(partial=True):
                pass
            self.checkpoint("stop")
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            logger.exception("the trainer stopped at step %d", self.step)
        finally:
            # Not measured anew: an engine that has just failed may fail again, and that must not hide its death.
            self.status = replace(self.status, alive=False, failure=self._failure, checkpoint=self._checkpoint)

    def _turn(self) -> None:
        """One step or command, or one bounded wait for more of the log."""
        if self._advance(partial=False):
            self._waiting_since = None
            return
        left = IDLE_SECONDS
        if self._cutter.waiting:
            now = time.monotonic()
            self._waiting_since = now if self._waiting_since is None else self._waiting_since
            left = min(left, self._waiting_since + self._config.step_linger_seconds - now)
        if left > 0:
            self.stores.log.wait(self._cutter.read, left)
        elif self._advance(partial=True):
            self._waiting_since = None

    def _advance(self, *, partial: bool) -> bool:
        recorded = self._recorded.pop(self._cutter.cursor, None)
        cut = self._cutter.cut(partial=partial, until=recorded.end if recorded else None)
        if cut is None:
            return False
        self.step += 1
        if isinstance(cut, StepCut):
            self._process(cut, recorded)
        else:
            self._command(cut)
        self.stores.log.consumed(cut.end.position)
        self.publication = self._published()
        if self.step % self._config.checkpoint_every == 0:
            self.checkpoint("every")
        self.status = self._measured()
        return True

    def _process(self, cut: StepCut, recorded: Decision | None) -> None:
        step = Step(self.step, cut.x, cut.y, cut.refs, cut.producers)
        report = self.engine.process(step, recorded.verdicts if recorded else None)
        self.stores.journal.record(
            Decision(
                step=self.step,
                start=cut.start,
                end=cut.end,
                refs=cut.refs,
                verdicts=report.verdicts,
                updated=report.updated,
                vetoed=report.vetoed,
            )
        )
        rows = [row for row, v in enumerate(report.verdicts) if v.verdict is Verdict.QUARANTINE]
        if rows:
            self.stores.quarantine.put([self._held(cut, row, report) for row in rows])
        self._counters["vetoes"] += recorded.vetoed if recorded else report.vetoed
        self._counters["rollbacks"] += any(verdict.reason is Reason.ROLLBACK for verdict in report.verdicts)
        self._tell(report)

    def _held(self, cut: StepCut, row: int, report: StepReport) -> Held:
        return Held(
            batch=cut.refs[row].batch,
            index=cut.refs[row].index,
            producer=cut.producers[row],
            label=int(cut.y[row]),
            step=report.step,
            verdict=report.verdicts[row],
            payload=codec.encode(Batch(cut.x[row : row + 1], cut.y[row : row + 1])),
            held_at=self._clock(),
            sample_id=cut.ids[row],
        )

    def _command(self, cut: CommandCut) -> None:
        outcome = commands.run(self, cut.entry)
        logger.info("%s by %s: %s", cut.entry.kind, cut.entry.producer, dict(outcome.result))
        report = outcome.report
        self.stores.journal.record(
            Decision(
                step=self.step,
                start=cut.start,
                end=cut.end,
                refs=outcome.refs,
                verdicts=report.verdicts if report else (),
                updated=report is not None and report.updated,
                vetoed=report is not None and report.vetoed,
                command=cut.entry.id,
                result=outcome.result,
            )
        )
        outcome.effect()

    def _tell(self, report: StepReport) -> None:
        counts: Mapping[str, Any] = {verdict.value: count for verdict, count in report.counts.items()}
        gate = report.gate
        said = {
            "veto": report.vetoed,
            "decline": gate is not None and gate.declined,
            "rolled back to the best": gate is not None and gate.rolled_back,
            "drift": report.drift,
            "breaker open: set the mode to close it": report.breaker_open,
        }
        why = ", ".join([*report.alarms, *(words for words, so in said.items() if so)])
        level = logging.WARNING if why else logging.INFO
        logger.log(level, "step %d: %s%s", report.step, dict(counts), f" ({why})" if why else "")
        for listener in self._listeners:
            listener(report)

    def _published(self) -> Publication:
        copy = self._reader.copy(self.engine.weights())
        return Publication(self.step, self.engine.recipe, copy, copy.weights)

    def _measured(self) -> LearnerStatus:
        engine = self.engine
        return LearnerStatus(
            alive=self._thread.is_alive(),
            failure=self._failure,
            step=self.step,
            updates=engine.updates,
            position=self._cutter.cursor.position,
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
            vetoes=self._counters["vetoes"],
            rollbacks=self._counters["rollbacks"],
            checkpoint=self._checkpoint,
            producers=engine.producers(),
        )
