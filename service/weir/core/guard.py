"""Evidence, calibration and correction become verdicts; weights are never touched here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.calibration import Calibration, Scores, Trusted, group_threshold
from weir.core.config import EngineConfig
from weir.core.correction import Correction
from weir.core.evidence import Evidence
from weir.core.familiarity import Familiarity
from weir.core.judgement import Judgement, accept_all
from weir.core.network import Network, Outputs
from weir.core.probe import ProbeSet
from weir.core.producers import Producers
from weir.core.published import judge_mean
from weir.core.snapshots import Snapshot, Snapshots
from weir.core.task import Task
from weir.types import GuardMode, Reason, SampleVerdict, State, Step, Verdict


class _Suspicion(NamedTuple):
    """Why each sample is suspect (CLEAN: it is not), and what the groups said."""

    reasons: list[Reason]
    step_score: float
    alarms: tuple[Reason, ...]
    producers: frozenset[str]


class Guard:
    """Judges a step's samples against one historical model, calibrated on the probe set."""

    def __init__(self, network: Network, task: Task, snapshots: Snapshots, config: EngineConfig) -> None:
        self._network = network
        self._task = task
        self._snapshots = snapshots
        self._config = config.guard
        self._evidence = Evidence(network, task, images=config.guard.image_evidence)
        self._correction = Correction(network, task, config.correction)
        self._corrects_suspects = config.correction.enabled
        self._calibration: Calibration | None = None
        self._familiarity: Familiarity | None = None
        self._age = 0
        self._override: GuardMode | None = None
        self._probe: ProbeSet | None = None
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
        return self._probe

    @probe.setter
    def probe(self, probe: ProbeSet | None) -> None:
        self._probe = probe
        self._familiarity = Familiarity(self._part("fit")[0]) if probe else None
        self.recalibrate()

    @property
    def sample_threshold(self) -> float | None:
        """The threshold on a sample's score in force, None while there is none."""
        return self._calibration.sample_threshold if self._calibration else None

    def recalibrate(self) -> None:
        """Calibrate anew at the next step: model, snapshot or probe set has been replaced."""
        self._calibration = None

    def judge(self, step: Step, x: Tensor, y: Tensor, current: Outputs) -> Judgement:
        """Give every prepared sample its verdict, from the current model's outputs on it."""
        snapshot = self._snapshots.reference()
        if self.mode is GuardMode.OFF or snapshot is None or (self.probe is None and not self._fixed_rule):
            return accept_all(x, Reason.UNARMED)
        if self.mode is GuardMode.DSC:
            return self._judge_mean(step, x, y, snapshot)
        calibration = self._calibrated(snapshot)
        evidence = self._matrix(x, y, current, snapshot, calibration.trusted.influence)
        scores = calibration.score(evidence, y)
        suspicion = self._suspect(scores, y.tolist(), step.producers, calibration)
        corrected, fixed = x, frozenset[int]()
        if self.mode is GuardMode.WEIR:
            corrected, fixed = self._correct(x, y, suspicion.reasons, snapshot, calibration)
        return Judgement(
            verdicts=self._verdicts(scores, evidence[:, 0], suspicion.reasons, fixed),
            x=corrected,
            step_discrepancy=float(evidence[:, 0].mean()),
            step_discrepancy_threshold=calibration.mean_discrepancy_threshold(len(x), self._config.step_rate),
            step_score=suspicion.step_score,
            step_threshold=group_threshold(self._config.step_rate, scores.normal.shape[1]),
            sample_threshold=calibration.sample_threshold,
            alarms=suspicion.alarms,
            alarmed_producers=tuple(sorted(suspicion.producers)),
        )

    def state(self) -> State:
        """Everything a restart needs, the calibration in force included: it may be older than the model."""
        values = {
            "override": self._override,
            "age": self._age,
            "calibrated": self._calibration is not None,
            "signals": list(self._evidence.names),
        }
        parts = [State({}, values), self.producers.state().nest("producers")]
        if self.probe:
            parts.append(self.probe.state().nest("probe"))
        if self._calibration:
            parts.append(self._calibration.trusted.state().nest("calibration"))
        return State.merge(*parts)

    def load_state(self, state: State) -> None:
        """Replace mode, probe set, calibration and the producers' evidence."""
        override = state.values["override"]
        self._override = GuardMode(override) if override else None
        self._age = state.values["age"]
        same = state.values["signals"] == list(self._evidence.names)  # else the columns mean something else
        self.producers.load_state(state.part("producers"), windows=same)
        self.probe = ProbeSet.from_state(state.part("probe")) if "probe" in state.values else None
        self._calibration = None
        if state.values["calibrated"] and same:
            self._use(Trusted.from_state(state.part("calibration"), self._network.device))

    @property
    def _fixed_rule(self) -> bool:
        return self.mode is GuardMode.DSC and self._config.dsc_base is not None

    def _suspect(
        self, scores: Scores, labels: Sequence[int], producers: Sequence[str], calibration: Calibration
    ) -> _Suspicion:
        """Look at each sample alone, at each producer's window, and at what is left of the step without those.

        A step that alarms for one producer's sake must not clear the others of it, nor condemn them.
        """
        alarmed = self.producers.observe(scores.normal, labels, producers, calibration)
        bound = group_threshold(self._config.step_rate, scores.normal.shape[1])
        statistic = left = self._step_statistic(scores, labels, range(len(labels)), calibration)
        if alarmed:
            others = [row for row, producer in enumerate(producers) if producer not in alarmed]
            left = self._step_statistic(scores, labels, others, calibration) if others else 0.0
        blamed = left > bound
        reasons = []
        for producer, alone in zip(producers, (scores.score > scores.threshold).tolist(), strict=True):
            if producer in alarmed:
                reasons.append(Reason.PRODUCER)
            elif blamed:
                reasons.append(Reason.STEP)
            else:
                reasons.append(Reason.SAMPLE if alone else Reason.CLEAN)
        alarms = ((Reason.STEP,) if statistic > bound or blamed else ()) + ((Reason.PRODUCER,) if alarmed else ())
        return _Suspicion(reasons, statistic, alarms, alarmed)

    def _step_statistic(
        self, scores: Scores, labels: Sequence[int], rows: Sequence[int], calibration: Calibration
    ) -> float:
        mean = scores.normal[torch.tensor(rows, device=scores.normal.device)].mean(0)
        return calibration.group_statistic(mean, Counter(labels[row] for row in rows))

    def _correct(
        self, x: Tensor, y: Tensor, reasons: Sequence[Reason], snapshot: Snapshot, calibration: Calibration
    ) -> tuple[Tensor, frozenset[int]]:
        """Correct what its own evidence suspects; what a group's does has no threshold of its own to reach."""
        single = [index for index, reason in enumerate(reasons) if reason is Reason.SAMPLE]
        if not self._corrects_suspects or not single:
            return x, frozenset()
        rows = torch.tensor(single, device=x.device)

        def suspicious(moved: Tensor, index: Tensor) -> Tensor:
            labels = y[rows[index]]
            evidence = self._matrix(moved, labels, self._outputs(moved), snapshot, calibration.trusted.influence)
            scores = calibration.score(evidence, labels)
            return scores.score > scores.threshold

        result = self._correction.correct(x[rows], y[rows], suspicious)
        corrected = x.clone()
        corrected[rows] = result.x
        fixed = (index for index, suspect in zip(single, result.suspect.tolist(), strict=True) if not suspect)
        return corrected, frozenset(fixed)

    def _verdicts(
        self, scores: Scores, discrepancy: Tensor, reasons: Sequence[Reason], fixed: frozenset[int]
    ) -> tuple[SampleVerdict, ...]:
        columns = torch.stack([scores.score, scores.threshold, discrepancy, scores.p], dim=1).tolist()
        verdicts = []
        for index, (reason, numbers) in enumerate(zip(reasons, columns, strict=True)):
            verdict = Verdict.ACCEPT
            if self.mode is GuardMode.WEIR and reason is not Reason.CLEAN:
                verdict = Verdict.CORRECT if index in fixed else Verdict.QUARANTINE
            verdicts.append(SampleVerdict(verdict, reason, *numbers))
        return tuple(verdicts)

    def _judge_mean(self, step: Step, x: Tensor, y: Tensor, snapshot: Snapshot) -> Judgement:
        if self._config.dsc_base is not None:
            threshold = self._config.dsc_base + self._config.dsc_slope * step.number
        else:
            threshold = self._calibrated(snapshot).mean_discrepancy_threshold(len(x), self._config.step_rate)

        def discrepancy(moved: Tensor) -> Tensor:
            return self._task.discrepancy(self._outputs(moved, snapshot).logits, self._outputs(moved).logits)

        return judge_mean(x, y, discrepancy, threshold, self._correction)

    def _calibrated(self, snapshot: Snapshot) -> Calibration:
        """The calibration in force, made anew when it is ``refresh`` steps old, and always against the ring.

        Discrepancies to the distant anchor change slowly. Those to a snapshot of the ring are as small as the last few
        updates: under a calibration of a few steps ago one clean step in four raised an alarm.
        """
        self._age += 1
        if self._calibration is not None and self._age < self._config.refresh and snapshot is self._snapshots.anchor:
            return self._calibration
        assert self.probe is not None
        (fit, fit_y), (threshold, labels) = self._part("fit"), self._part("threshold")
        current = self._outputs(fit)
        influence = self._evidence.influence(current, fit_y)
        self._age = 0
        return self._use(
            Trusted(
                fit=self._matrix(fit, fit_y, current, snapshot, influence, inside=True),
                threshold=self._matrix(threshold, labels, self._outputs(threshold), snapshot, influence),
                labels=labels,
                influence=influence,
            )
        )

    def _use(self, trusted: Trusted) -> Calibration:
        calibration = Calibration(trusted, rate=self._config.sample_rate, per_class=self._config.per_class)
        self._calibration = calibration
        return calibration

    def _part(self, name: str) -> tuple[Tensor, Tensor]:
        assert self.probe is not None
        part = self.probe.part(name)
        return self._network.prepare(part.x), part.y.to(self._network.device)

    def _outputs(self, x: Tensor, snapshot: Snapshot | None = None) -> Outputs:
        with torch.no_grad():
            return self._network.outputs(x, snapshot.weights if snapshot else None)

    def _matrix(
        self,
        x: Tensor,
        y: Tensor,
        current: Outputs,
        snapshot: Snapshot,
        influence: Tensor | None,
        *,
        inside: bool = False,
    ) -> Tensor:
        assert self._familiarity is not None
        with torch.no_grad():
            return self._evidence.matrix(
                x, y, current, snapshot.weights, influence=influence, familiarity=self._familiarity, inside=inside
            )
