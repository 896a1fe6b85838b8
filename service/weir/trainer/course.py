"""The learner's course through the log: cut, learn, journal, and only then let the world see; or try again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from weir import codec
from weir.core import Engine
from weir.errors import DamagedCheckpoint, GroupLost, NotReady
from weir.stores.base import CheckpointInfo, Cursor, DeadLetter, Decision, Held, Lineage, Stores
from weir.trainer import commands
from weir.trainer.commands import Outcome, Unprocessable
from weir.trainer.cutter import BrokenCut, CommandCut, Cut, Cutter, StepCut
from weir.trainer.rerun import NewEngine, on_record
from weir.trainer.saved import Answer, Saved, compare_environment, extended
from weir.trainer.settlement import settle
from weir.trainer.upkeep import Retention, keep_house
from weir.types import Batch, Reason, SampleRef, SampleVerdict, State, Step, StepReport, Verdict

logger = logging.getLogger("weir.trainer")
MOST_IN_A_ROW = (
    3  # given up without anything learned in between: then it is the engine that fails, not what it is given
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How long a step waits to be full, how often state is made durable or a step tried, and what is kept."""

    step_linger_seconds: float = 0.2
    checkpoint_every: int = 500
    attempts: int = 3
    retention: Retention = field(default_factory=Retention)


def initialise(stores: Stores, engine: Engine, *, at: float, reason: str = "burn-in") -> CheckpointInfo:
    """Write an engine as the first checkpoint of a data folder, with the cursor at the end of its log."""
    state = Saved(engine.recipe).with_engine(engine)
    return stores.checkpoints.save(state, step=0, cursor=Cursor(stores.log.tail()), at=at, reason=reason)


class Course:
    """Takes one cut of the log after the other through the engine, from the newest checkpoint on.

    Only the trainer's thread may use it once that runs. ``tell`` hears of every step once, however often it is redone.
    """

    def __init__(
        self,
        stores: Stores,
        new_engine: NewEngine,
        config: TrainerConfig,
        *,
        tell: Callable[[StepReport], None],
        clock: Callable[[], float],
        own_engine: NewEngine | None = None,
    ) -> None:
        """Resume; ``own_engine`` makes the engine that learns the log, where it is not like those that replay it.

        Raises NotReady without a checkpoint, DamagedCheckpoint when none can be resumed from.
        """
        self.stores = stores
        self.new_engine = new_engine
        self._own_engine = own_engine or new_engine
        self._config = config
        self._tell = tell
        self._clock = clock
        self._told = 0
        self._attempts: Counter[tuple[Cursor, Cursor]] = Counter()
        self._tried: dict[Cursor, Cursor] = {}  # where cuts that failed began and ended: tried again, they are the same
        self._single_until = Cursor()  # up to here steps hold one batch each: one of them makes processing fail
        self._given_up: dict[Cursor, str] = {}
        self._in_a_row = 0
        self._answering: CommandCut | None = None
        self._report: StepReport | None = None  # of the step that is being taken
        self._counters: dict[str, int] = {}
        self._lineage: Lineage = ()
        self._resume()

    @property
    def cursor(self) -> Cursor:
        """The next sample to learn."""
        return self._cutter.cursor

    @property
    def read(self) -> int:
        """The last log position read."""
        return self._cutter.read

    @property
    def waiting(self) -> bool:
        """Whether samples have been read that do not fill a step yet."""
        return self._cutter.waiting

    @property
    def counters(self) -> dict[str, int]:
        """What was counted since burn-in."""
        return dict(self._counters)

    def advance(self, *, partial: bool) -> bool:
        """Take one step or command, of fewer samples than a full step only if ``partial``; False when there is none."""
        recorded = self._recorded.pop(self.cursor, None)
        until = recorded.end if recorded else self._tried.get(self.cursor)
        single = recorded is None and self.cursor < self._single_until
        cut = self._cutter.cut(partial=partial, until=until, single=single and until is None)
        if cut is None:
            return False
        self.step += 1
        try:
            self._take(cut, recorded)
        except Unprocessable as error:
            self._stumble(cut, error.cause, recorded)
            return True
        for known in (self._tried, self._given_up):
            known.pop(cut.start, None)
        self._say()
        self.stores.log.consumed(cut.end.position)
        if self.step % self._config.checkpoint_every == 0:
            if self._saved_at != self.step:  # a command's own is enough: after a crash it is all there would be
                self.checkpoint("every")
            keep_house(self.stores, self._config.retention, self._clock())
        return True

    def learn(self, step: Step, recorded: Sequence[SampleVerdict] | None) -> StepReport:
        """Process one step; raises Unprocessable for whatever the engine raises, but GroupLost."""
        if vaccinated := self.engine.vaccine_due and not step.released:
            logger.info("step %d: the guard learns what poison looks like; it takes as long as many steps", step.number)
        try:
            self._report = report = self.engine.process(step, recorded)
        except GroupLost:
            raise
        except Exception as error:
            raise Unprocessable(error) from error
        self._lineage = extended(self._lineage, self.step)
        if vaccinated:
            logger.info("step %d: the guard took %.1f s", step.number, report.seconds["guard"])
        return report

    def checkpoint(self, reason: str, answer: Outcome | None = None) -> CheckpointInfo:
        """Write a checkpoint of everything, with the cursor after what has been processed."""
        saved = Saved(self.engine.recipe, self._lineage, self._counters, self._answer(answer))
        info = self.stores.checkpoints.save(
            saved.with_engine(self.engine), step=self.step, cursor=self.cursor, at=self._clock(), reason=reason
        )
        self.checkpoint_id, self._saved_at = info.id, info.step
        logger.info("checkpoint %s written at step %d (%s)", info.id, info.step, reason)
        return info

    def rolled_back(self, lineage: Lineage) -> None:
        """Take over the lineage of other weights, and count a rollback."""
        self._lineage = list(lineage)
        self.stores.journal.in_weights(self._lineage, self.step)
        self._counters["rollbacks"] += 1

    def _resume(self) -> None:
        info, state = self._newest()
        saved = Saved.of(state)
        self.engine = self._own_engine(state)
        compare_environment(state, self.engine)
        self.step = info.step
        self.checkpoint_id, self._saved_at = info.id, info.step
        self._counters = dict(saved.counters)
        self._lineage = list(saved.lineage)
        if saved.answer is not None:
            # Written as part of a command: whether what follows was done before the process ended is not known.
            decision = saved.answer.decision(info)
            self.stores.journal.record(decision)
            settle(self.stores, self.stores.log.get(saved.answer.entry), decision)
        self._report = None
        self._cutter = Cutter(self.stores.log, step_size=self.engine.config.step_size)
        self._cutter.seek(info.cursor)
        self._recorded = {decision.start: decision for decision in self.stores.journal.after(info.cursor)}
        self.stores.log.consumed(info.cursor.position)

    def _newest(self) -> tuple[CheckpointInfo, State]:
        found = self.stores.checkpoints.newest()
        if found is None:
            raise NotReady("this data folder holds no model yet: run `weir burnin` first")
        (info, _), floor = found, self.stores.log.floor()
        if info.cursor.position < floor:
            raise DamagedCheckpoint(
                f"checkpoint {info.id} ends at position {info.cursor.position} and the log begins after {floor}: "
                "what lies between is lost; restore a newer checkpoint from a copy"
            )
        return found

    def _take(self, cut: Cut, recorded: Decision | None) -> None:
        given_up = self._given_up.get(cut.start)
        match cut:
            case CommandCut():
                self._command(cut, recorded, given_up)
            case BrokenCut():
                refs = [SampleRef(cut.entry.id, index) for index in range(cut.entry.samples)]
                self._bury(cut, refs, f"its payload cannot be read: {_words(cut.error)}", cut.entry.payload)
            case StepCut() if not cut.refs:
                pass  # all of it has been erased since it was decided on
            case StepCut() if recorded and recorded.verdicts[0].reason is Reason.ERROR:
                self._bury(cut, cut.refs, recorded.result["error"], cut.payload)
            case StepCut() if given_up is not None:
                self._bury(cut, cut.refs, given_up, cut.payload)
            case StepCut():
                self._process(cut, recorded)

    def _process(self, cut: StepCut, recorded: Decision | None) -> None:
        verdicts = on_record(cut.refs, recorded)
        report = self.learn(Step(self.step, cut.x, cut.y, cut.refs, cut.producers), verdicts)
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

    def _command(self, cut: CommandCut, recorded: Decision | None, given_up: str | None) -> None:
        entry = cut.entry
        self._answering = cut
        try:
            outcome = commands.run(self, entry, recorded) if given_up is None else commands.failed(given_up)
        finally:
            self._answering = None
        logger.info("%s by %s: %s", entry.kind, entry.producer, dict(outcome.result))
        decision = Decision(
            step=self.step,
            start=cut.start,
            end=cut.end,
            refs=tuple(outcome.refs),
            verdicts=tuple(outcome.verdicts),
            updated=outcome.updated,
            vetoed=outcome.vetoed,
            command=entry.id,
            result=outcome.result,
        )
        self.stores.journal.record(decision)
        settle(self.stores, entry, decision)

    def _answer(self, outcome: Outcome | None) -> Answer | None:
        if outcome is None or self._answering is None:
            return None
        entry = self._answering.entry
        return Answer(entry.id, entry.kind, self._answering.start, outcome.result, outcome.refs, outcome.verdicts)

    def _stumble(self, cut: Cut, error: Exception, recorded: Decision | None) -> None:
        """Put the engine back to where it was, and see that the next try differs once there have been enough.

        Raises the error when it is a decision on record that cannot be made again, or when nothing else is learned.
        """
        place = cut.start, cut.end
        self._attempts[place] += 1
        tries, most = self._attempts[place], self._config.attempts
        cause = error if tries >= most else None  # the whole of it once, not every time
        logger.error("step %d failed, try %d of %d: %s", self.step, tries, most, _words(error), exc_info=cause)
        self._tried[cut.start] = cut.end
        if tries >= most:
            if recorded is not None or self._in_a_row >= MOST_IN_A_ROW:
                raise error
            if isinstance(cut, StepCut) and cut.batches > 1:
                del self._tried[cut.start]
                self._single_until = cut.end
            else:
                self._given_up[cut.start] = _words(error)
                self._in_a_row += 1
        self._resume()

    def _bury(self, cut: StepCut | BrokenCut, refs: Sequence[SampleRef], error: str, payload: bytes) -> None:
        """Move samples of one batch to the dead letters, so that the stream goes on."""
        batch, first = refs[0].batch, refs[0].index
        entry = self.stores.log.get(batch)
        dead = SampleVerdict(Verdict.QUARANTINE, Reason.ERROR)
        verdicts = (dead,) * len(refs)
        self.stores.journal.record(
            Decision(self.step, cut.start, cut.end, tuple(refs), verdicts, result={"error": error})
        )
        letter = DeadLetter(batch, first, len(refs), entry.producer, self.step, error, payload, self._clock())
        self.stores.dead_letters.put(letter)
        self._counters["dead"] += len(refs)
        logger.error("%d samples of batch %s are dead letters now: %s", len(refs), batch, error)

    def _say(self) -> None:
        """Tell of the step that was taken, now that it is in the journal."""
        report, self._report = self._report, None
        if report is not None and report.step > self._told:
            self._told = report.step
            self._in_a_row = 0
            self._tell(report)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
