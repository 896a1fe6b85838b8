"""Evidence, calibration and correction become verdicts; weights are never touched here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.calibration import Calibration, Scores, Trusted, group_threshold
from weir.core.config import EngineConfig
from weir.core.consensus import Common, Consensus
from weir.core.correction import Correction
from weir.core.judgement import Judgement, accept_all
from weir.core.measurement import Measurement
from weir.core.network import Network, Outputs
from weir.core.probe import ProbeSet
from weir.core.producers import MOST_PRODUCERS, Producers
from weir.core.published import judge_mean
from weir.core.ranks import ALONE, Ranks
from weir.core.roster import Roster
from weir.core.snapshots import Snapshot, Snapshots
from weir.core.suspicion import Jury, Suspicion
from weir.core.task import Task
from weir.core.vaccine import Poisoner, Vaccine
from weir.types import GuardMode, Reason, SampleVerdict, Standing, State, Step, Verdict

FEWEST = 16  # trusted samples that are measured at a step: fewer say little of the others
TAIL = 8  # those with the highest scores, measured at every step: thresholds lie there
STALE = 0.3  # spreads that these may have moved on average, and the others about half of it, until more are measured
SHARES = 8  # in which more are measured: most often one will do


class _Found(NamedTuple):
    """A step's calibration, evidence (n, signals) and scores, what its producers have in common, who is suspect."""

    calibration: Calibration
    evidence: Tensor
    scores: Scores
    common: Common
    suspicion: Suspicion


class Guard:
    """Judges a step's samples against one historical model, calibrated on the probe set."""

    def __init__(
        self,
        network: Network,
        task: Task,
        snapshots: Snapshots,
        config: EngineConfig,
        poisoner: Poisoner | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._network = network
        self._task = task
        self._snapshots = snapshots
        self._config = config.guard
        self._seed = config.seed
        self._ranks = ranks
        self._measurement = Measurement(network, task, config.guard, poisoner, ranks)
        self._correction = Correction(network, task, config.correction)
        self._corrects_suspects = config.correction.enabled
        self._jury = Jury(config.guard)
        self._consensus = Consensus(rate=config.guard.step_rate, most=MOST_PRODUCERS)
        self._calibration: Calibration | None = None
        self._vaccine: Vaccine | None = None
        self._attacks: list[str] = []
        self._vaccine_age = self._config.vaccine_refresh  # steps since one was made, or tried to; at first it is due
        self._measured_at: int | None = None  # updates in the weights that all trusted samples were measured with
        self._eased = torch.empty(0)  # what those measured last at this step had lost of their normal scores (columns,)
        self._override: GuardMode | None = None
        self.producers = Producers(config.guard)

    @property
    def mode(self) -> GuardMode:
        """The configured mode, unless an admin has set another since."""
        return self._override or self._config.mode

    def set_mode(self, mode: GuardMode) -> None:
        """Set the mode for good: it outlives a restart until it is set back to the configured one."""
        self._override = None if mode is self._config.mode else mode
        self.recalibrate()

    @property
    def unarmed_because(self) -> str | None:
        """What is missing before the guard can act, in words; None when it is armed."""
        if self.mode in (GuardMode.OFF, GuardMode.OBSERVE):
            return f"the mode is {self.mode}"
        if self._snapshots.reference() is None:
            return "there is no historical snapshot yet"
        if self.probe is None and not self._fixed_rule:
            return "there is no probe set"
        return None

    @property
    def probe(self) -> ProbeSet | None:
        """The probe set in use."""
        return self._measurement.probe

    @probe.setter
    def probe(self, probe: ProbeSet | None) -> None:
        self._measurement.probe = probe
        self.renew()

    @property
    def sample_threshold(self) -> float | None:
        """The threshold on a sample's score in force, None while there is none."""
        return self._calibration.sample_threshold if self._calibration else None

    @property
    def vaccine_age(self) -> int | None:
        """Steps since the vaccine in force was made, None without one."""
        return self._vaccine_age if self._vaccine else None

    @property
    def vaccine_due(self) -> bool:
        """Whether the next step that is judged makes a vaccine first, which takes as long as many steps."""
        judges = self.mode in (GuardMode.WEIR, GuardMode.OBSERVE) and self.probe is not None
        old = self._vaccine_age + 1 >= self._config.vaccine_refresh
        return judges and old and self._measurement.vaccinates and self._snapshots.reference() is not None

    @property
    def unvaccinated_because(self) -> str | None:
        """Why there is no vaccine, in words; None where there is one, or will be at the next step."""
        return self._measurement.unvaccinated_because

    def recalibrate(self) -> None:
        """Calibrate and vaccinate anew at the next step: model, snapshot or probe set has been replaced."""
        self._calibration = self._vaccine = self._measured_at = None
        self._vaccine_age = self._config.vaccine_refresh

    def renew(self) -> None:
        """Calibrate anew and forget what producers had in common: it was measured against what has been replaced."""
        self.recalibrate()
        self._consensus.forget()

    def judge(self, step: Step, x: Tensor, y: Tensor, current: Outputs, *, updates: int) -> Judgement:
        """Give every sample its verdict.

        ``y`` (n,) are the labels of all of them, ``x`` this rank's own, prepared, ``current`` the outputs on these,
        ``updates`` how many are in the weights.
        """
        snapshot = self._snapshots.reference()
        if self.mode is GuardMode.OFF or snapshot is None or (self.probe is None and not self._fixed_rule):
            return accept_all(x, Reason.UNARMED, len(y))
        if self.mode is GuardMode.DSC:
            return self._judge_mean(step, x, y, snapshot, updates)
        roster = Roster(step.producers, step.y.tolist())
        found = self._found(step, roster, x, y, current, snapshot, updates)
        calibration, evidence, scores, common, suspicion = found
        corrected, fixed = x, frozenset[int]()
        if self.mode is GuardMode.WEIR:
            corrected, fixed = self._correct(x, y, suspicion.reasons, snapshot, calibration)
        return Judgement(
            verdicts=self._verdicts(scores, evidence[:, 0], suspicion.reasons, fixed),
            x=corrected,
            step_discrepancy=float(evidence[:, 0].mean()),
            step_discrepancy_threshold=calibration.mean_discrepancy_threshold(len(y), self._config.step_rate),
            step_score=suspicion.step_score,
            step_threshold=group_threshold(self._config.step_rate, calibration.columns),
            sample_threshold=calibration.sample_threshold,
            alarms=suspicion.alarms,
            alarmed_producers=tuple(sorted(suspicion.producers)),
            drift=common.drift,
        )

    def state(self) -> State:
        """Everything a restart needs, the calibration in force included: it may be older than the model."""
        values = {
            "override": self._override,
            "vaccine_age": self._vaccine_age,
            "measured_at": self._measured_at,
            "signals": self._judged_names,
            "attacks": self._attacks,
        }
        parts = [State({}, values), self.producers.state().nest("producers"), self._consensus.state().nest("consensus")]
        if self.probe:
            parts.append(self.probe.state().nest("probe"))
        if self._calibration:
            parts.append(self._measurement.state().nest("measured"))
        if self._vaccine:
            parts.append(self._vaccine.state().nest("vaccine"))
        return State.merge(*parts)

    def load_state(self, state: State) -> None:
        """Replace mode, probe set, calibration, vaccine and the producers' evidence."""
        override = state.values["override"]
        self._override = GuardMode(override) if override else None
        attacks = state.values["attacks"]
        vaccinated = not attacks or self._measurement.vaccinates
        same = state.values["signals"] == self._judged_names and vaccinated  # else the columns mean something else
        self._attacks = attacks if same else []
        self.producers.load_state(state.part("producers"), evidence=same)
        self.probe = ProbeSet.from_state(state.part("probe")) if "probe" in state.values else None
        if same:
            self._vaccine_age = state.values["vaccine_age"]
            self._consensus.load_state(state.part("consensus"))
        if "vaccine" in state.values and same:
            self._vaccine = Vaccine.from_state(state.part("vaccine"), torch.device("cpu"))
            self._vaccine_age = self._vaccine_age if self._vaccine else self._config.vaccine_refresh
        snapshot = self._snapshots.reference()
        measured = state.part("measured")  # nothing in the states of earlier versions, which calibrate anew
        if measured.tensors and same and snapshot is not None:
            self._measurement.load_state(measured)
            self._measured_at = state.values.get("measured_at")  # earlier versions did not say
            self._use(self._measurement.trusted(snapshot))

    @property
    def _judged_names(self) -> list[str]:
        return [self._measurement.names[column] for column in self._measurement.judged]

    @property
    def _fixed_rule(self) -> bool:
        return self.mode is GuardMode.DSC and self._config.dsc_base is not None

    def _correct(
        self, x: Tensor, y: Tensor, reasons: Sequence[Reason], snapshot: Snapshot, calibration: Calibration
    ) -> tuple[Tensor, frozenset[int]]:
        """Correct what its own evidence suspects; what a group's does has no threshold of its own to reach."""
        single = torch.tensor([reason is Reason.SAMPLE for reason in reasons], device=x.device)
        if not self._corrects_suspects or not bool(single.any()):
            return x, frozenset()
        own, rows = self._ranks.own(y), self._ranks.counted(single).nonzero()[:, 0]

        def suspicious(moved: Tensor, index: Tensor) -> Tensor:
            labels, measure = own[rows[index]], self._measurement
            current = measure.outputs(moved)
            evidence = measure.matrix(moved, labels, current, snapshot, calibration.trusted.influence)
            scores = calibration.score(calibration.standardise(evidence), labels.cpu())
            return (scores.score > scores.threshold).to(moved.device)

        corrected, clean = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        with self._ranks.together("correction"):
            result = self._correction.correct(x[rows], own[rows], suspicious)
            corrected[rows], clean[rows] = result.x, ~result.suspect
        return corrected, frozenset(self._ranks.gather(clean, len(y)).nonzero()[:, 0].tolist())

    def _verdicts(
        self, scores: Scores, discrepancy: Tensor, reasons: Sequence[Reason], fixed: frozenset[int]
    ) -> tuple[SampleVerdict, ...]:
        columns = torch.stack([scores.score, scores.threshold, discrepancy, scores.p], dim=1).tolist()
        acts, verdicts = self.mode is GuardMode.WEIR, []
        for index, (reason, numbers) in enumerate(zip(reasons, columns, strict=True)):
            verdict = Verdict.ACCEPT
            if acts and reason is not Reason.CLEAN:
                verdict = Verdict.CORRECT if index in fixed else Verdict.QUARANTINE
            verdicts.append(SampleVerdict(verdict, reason, *numbers))
        return tuple(verdicts)

    def _judge_mean(self, step: Step, x: Tensor, y: Tensor, snapshot: Snapshot, updates: int) -> Judgement:
        if self._config.dsc_base is not None:
            threshold = self._config.dsc_base + self._config.dsc_slope * step.number
        else:
            calibration = self._calibrated(snapshot, step, updates)
            threshold = calibration.mean_discrepancy_threshold(len(y), self._config.step_rate)

        def discrepancy(moved: Tensor) -> Tensor:
            with self._ranks.together("discrepancy"):
                historical, current = self._measurement.outputs(moved, snapshot), self._measurement.outputs(moved)
                own = self._task.discrepancy(historical.logits, current.logits)
            return self._ranks.gather(own, len(y))

        return judge_mean(x, self._ranks.own(y), discrepancy, threshold, self._correction)

    def _found(
        self,
        step: Step,
        roster: Roster,
        x: Tensor,
        y: Tensor,
        current: Outputs,
        snapshot: Snapshot,
        updates: int,
    ) -> _Found:
        """Judge a step by evidence that is measured with the same influence as what is trusted.

        More of the latter is measured as long as that may take a group over its bound or back, by how much lower or
        higher those measured last score than they did; and before an alarm is raised that is new, or holds a group.
        """
        measured, shares = self._measurement, 0
        calibration = self._calibrated(snapshot, step, updates)
        with self._ranks.together("snapshot"):
            view = measured.view(x, self._ranks.own(y), current, snapshot)
        known = self._consensus.recollection(roster.rows)
        while True:
            evidence = measured.whole(replace(view, influence=calibration.trusted.influence), len(y))
            scores, common = self._scored(evidence, step, roster, calibration)
            whole = self._measured_at == updates
            if whole or not self._doubtful(scores, roster, calibration, common):
                records = self.producers.recollection(roster.rows)
                self.producers.clear(common.newly)  # what they were seen to change before others did was the world's
                before = self.producers.standing(roster.rows)
                alarms = self.producers.observe(scores, roster, calibration)
                suspicion = self._jury.suspect(scores, roster, alarms, calibration, drift=common.drift)
                if whole or not self._grave(suspicion, roster, before):
                    return _Found(calibration, evidence, scores, common, suspicion)
                self.producers.recollect(records)
            self._consensus.recollect(known)
            turn = self._measure_share()
            shares += 1
            if shares == SHARES:
                self._measured_at = updates
            trusted = measured.trusted(snapshot)
            self._eased = calibration.eased(trusted, turn)
            calibration = self._use(trusted)

    def _grave(self, suspicion: Suspicion, roster: Roster, before: Mapping[str, Standing]) -> bool:
        """Whether a step is suspect in a way that its producers were not ``before``.

        Not if all that alarms is who is suspended, or is watched as it was and has only some of its samples held. What
        its earlier samples were found to be stays as it was found, by evidence that may have been a few steps old.
        """
        now = self.producers.standing(roster.rows)
        for name, rows in roster.rows.items():
            if now[name] is Standing.GOOD or before[name] is Standing.SUSPENDED:
                continue
            whole = len(rows) > 1 and all(suspicion.reasons[row] is Reason.PRODUCER for row in rows)
            if before[name] is Standing.GOOD or whole:
                return True
        return suspicion.rest

    def _scored(self, evidence: Tensor, step: Step, roster: Roster, calibration: Calibration) -> tuple[Scores, Common]:
        """The scores of a step's evidence (n, signals) without what is common, which is said beside them."""
        standardised = calibration.standardise(evidence)
        residual = calibration.residual(standardised, step.y)
        common = self._consensus.explain(residual, roster, step.number, calibration)
        if not common.drift:
            return calibration.score(standardised, step.y), common
        scores = calibration.score(calibration.restored(common.residual, step.y), step.y)
        return self._consensus.settle(scores, common.excused, roster, step.number), common

    def _calibrated(self, snapshot: Snapshot, step: Step, updates: int) -> Calibration:
        """The calibration for this step, of trusted samples each of which was measured in the last ``refresh`` steps.

        P-values are valid as long as what they are counted among is measured like the stream. So those that were
        longest not are measured at each step, and those that thresholds rest on; and more while the former have moved.
        All are before a vaccination, and always against the ring: discrepancies to the distant anchor change slowly,
        those to a snapshot of the ring are as small as the last few updates. None are once all have been measured with
        these weights.
        """
        vaccinates, measured = self.vaccine_due, self._measurement
        self._vaccine_age += 1
        known = self._calibration if snapshot is self._snapshots.anchor and not vaccinates else None
        if known is not None and self._measured_at == updates:
            return known
        self._measured_at = None
        if known is not None:
            return self._use(self._refreshed(snapshot, known, updates))
        measured.measure()
        self._measured_at = updates
        trusted = measured.trusted(snapshot)
        if vaccinates:
            self._vaccinate(snapshot, trusted, step)
        return self._use(trusted)

    def _refreshed(self, snapshot: Snapshot, known: Calibration, updates: int) -> Trusted:
        """Trusted evidence of which some was measured now: more of it, and all in the end, while that had moved."""
        measured = self._measurement
        turn = measured.next_turn(max(FEWEST, math.ceil(measured.size / self._config.refresh)))
        measured.measure([*turn, *known.tail(TAIL)])
        for _ in range(SHARES):
            trusted = measured.trusted(snapshot)
            self._eased = known.eased(trusted, turn)
            if known.shift(trusted, turn) <= STALE:
                return trusted
            turn = self._measure_share()
        self._measured_at = updates
        return measured.trusted(snapshot)

    def _measure_share(self) -> list[int]:
        """Measure one more share of what is trusted, that which was longest not; which, as indices."""
        measured = self._measurement
        turn = measured.next_turn(math.ceil(measured.size / SHARES))
        measured.measure(turn)
        return turn

    def _doubtful(self, scores: Scores, roster: Roster, calibration: Calibration, common: Common) -> bool:
        """Whether a z might lie on the other side of its bound if all was measured now.

        That of a producer's newest samples, of the step, or of what is left of it without the producers that alarm.
        """
        slack = torch.stack([self._eased.clamp_max(0.0), self._eased.clamp_min(0.0)])
        newest = self.producers.foresee(scores, roster, calibration, slack=slack, cleared=common.newly)
        bound = group_threshold(self._config.producer_rate, calibration.columns)
        if not _decided(newest, bound):
            return True
        alarming = {name for name, lowest in zip(roster.rows, newest[0].tolist(), strict=True) if lowest > bound}
        standing = self.producers.standing(set(roster.rows).difference(common.newly))
        alarming |= {name for name, how in standing.items() if how is Standing.SUSPENDED}
        together = self._jury.foresee(scores, roster, alarming, calibration, slack=slack)
        return not _decided(together, group_threshold(self._config.step_rate, calibration.columns))

    def _vaccinate(self, snapshot: Snapshot, trusted: Trusted, step: Step) -> None:
        self._vaccine = self._measurement.vaccine(snapshot, trusted, seed=self._seed * 1_000_003 + step.number)
        self._vaccine_age = 0
        attacks = list(self._vaccine.names) if self._vaccine else []
        if attacks != self._attacks:
            self.producers.forget()  # its columns mean something else now
            self._consensus.forget_scores()
        self._attacks = attacks

    def _use(self, trusted: Trusted) -> Calibration:
        self._calibration = Calibration(
            trusted,
            rate=self._config.sample_rate,
            per_class=self._config.per_class,
            vaccine=self._vaccine,
            judged=self._measurement.judged,
        )
        return self._calibration


def _decided(statistics: Tensor, bound: float) -> bool:
    """Whether each of statistics (2, n), the lowest and the highest that it may be, is on one side of the bound."""
    lowest, highest = statistics
    return bool(((highest <= bound) | (lowest > bound)).all())  # so that what is no number is not decided
