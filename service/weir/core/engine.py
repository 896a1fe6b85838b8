"""The whole face of core: ``Engine.process(step)`` gives a report; ``state()`` and ``load_state()`` hold the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from weir.core import arithmetic
from weir.core.breaker import Breaker
from weir.core.config import EngineConfig
from weir.core.evaluation import Progressive
from weir.core.guard import Guard
from weir.core.judgement import Judgement, accept_all, held, on_record, passed
from weir.core.learner import Learner, content_seed
from weir.core.network import Network, Weights
from weir.core.probe import ProbeSet
from weir.core.ranks import ALONE, Ranks
from weir.core.snapshots import Snapshots
from weir.core.task import Classification
from weir.core.transaction import Outcome, Transaction
from weir.core.vaccine import Poisoner
from weir.errors import InvalidSetting
from weir.types import (
    BreakerPolicy,
    GuardMode,
    ProbeInfo,
    ProducerReport,
    Reason,
    Recipe,
    SampleVerdict,
    State,
    Step,
    StepReport,
    Verdict,
)

STALE_WINDOW = 20  # steps
STALE_SHARE = 0.5  # of them vetoed although nothing was suspected: it is the probe set that no longer fits


class Engine:
    """A learner behind a guard and a gate; one thread at a time.

    ``arithmetic`` is what the anchor and the gate's glances score in. ``clock`` returns seconds and feeds only
    ``StepReport.seconds``: no decision depends on it.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: EngineConfig,
        *,
        poisoner: Poisoner | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        """Build the model with seeded weights. Without a ``poisoner`` there is no vaccine.

        Each of several ``ranks`` has an engine of its own, and all make the same calls; of a step's x only rank 0 needs
        more than the shape. Raises ModelNotBuilt, and InvalidSetting for batch norm that learns on several ranks.
        """
        self.recipe = recipe
        self.config = config
        self._clock = clock
        self.task = Classification()
        self.network = Network(recipe, device=config.device, seed=config.seed)
        if ranks.size > 1 and self.network.has_norm and not config.learner.freeze_norm:
            raise InvalidSetting("freeze_norm", False, f"true on {ranks.size} ranks, or a model without batch norm")
        self._ranks = ranks
        self._learner = Learner(self.network, self.task, config.learner, ranks)
        self.arithmetic = arithmetic.decided(config.snapshots.arithmetic, self.network, ranks)
        layout = self.network.scoring_layout
        self._snapshots = Snapshots(config.snapshots, arithmetic=self.arithmetic, layout=layout)
        self._guard = Guard(self.network, self.task, self._snapshots, config, poisoner, ranks)
        self._transaction = Transaction(
            self.network,
            self.task,
            self._learner,
            config.gate,
            ranks,
            arithmetic=self.arithmetic,
            timed=self._timed,
        )
        self._breaker = Breaker(config.breaker)
        self._drift = False
        self._progressive = Progressive(config.progressive_window)
        self._unexplained: deque[bool] = deque(maxlen=STALE_WINDOW)
        self._probe_accuracy: float | None = None  # of the weights as they were so many updates ago
        self._probe_age = 0
        self._seconds: dict[str, float] = {}

    def process(self, step: Step, recorded: Sequence[SampleVerdict] | None = None) -> StepReport:
        """Judge, learn and test one step; ``recorded`` verdicts of an earlier try stand, whatever is found now."""
        self._seconds = {}
        y = step.y.to(self.network.device)
        with self._timed("score"):
            mine = self._ranks.deal(step.x)
            with self._ranks.together("score"), torch.set_grad_enabled(self._learner.shares):
                x = self.network.prepare(mine)
                scored = self.network.outputs(x)
                current = scored.detach()
                correct = self.task.correct(current.logits, self._ranks.own(y))
            self._progressive.observe(self._ranks.gather(correct, len(y)))
        with self._timed("guard"):
            released = accept_all(x, Reason.RELEASED, len(y)) if step.released else None
            judged = released or self._guard.judge(step, x, y, current, updates=self._learner.updates)
        judged = self._past_the_breaker(judged, step)
        if recorded is not None:
            judged = on_record(judged, recorded, x, self._ranks)
            if any(verdict.reason is Reason.ROLLBACK for verdict in recorded):
                self._transaction.put_best_back()
                self._rolled_back()
        judged, outcome = self._learn(judged, y, step, scored.logits if self._learner.shares else None)
        vetoed = any(verdict.reason is Reason.VETO for verdict in judged.verdicts)
        if not step.released:
            self._guard.producers.count(step.producers, judged.verdicts)
            self._drift = judged.drift
            self._unexplained.append(vetoed and not judged.alarms)
        return self._report(step, judged, outcome)

    def predict(self, x: Tensor) -> Tensor:
        """Logits (n, classes) on the CPU of the current model, in eval mode."""
        with torch.no_grad():
            return self.network.outputs(self.network.prepare(x)).logits.cpu()

    def weights(self) -> Weights:
        """A copy of all parameters and buffers, on the device."""
        return self.network.snapshot()

    def set_probe(self, x: Tensor, y: Tensor, *, created_at: float, source: str) -> ProbeInfo:
        """Replace the probe set; raises InvalidProbe and changes nothing when it does not fit."""
        probe = ProbeSet(x, y, created_at=created_at, source=source)
        self._check(probe, self.mode)
        self._guard.probe = probe
        self._probe_accuracy = None
        self._transaction.reset()
        self._unexplained.clear()
        return probe.info

    def set_mode(self, mode: GuardMode) -> None:
        """Change what the guard does with its evidence, and close the breaker.

        Raises InvalidProbe when the probe set does not carry that mode.
        """
        self._check(self._guard.probe, mode)
        self._breaker.close()
        self._guard.set_mode(mode)

    def set_anchor(self, weights: Weights | None = None) -> None:
        """Make a trusted model (default: the current one) the anchor."""
        self._snapshots.trust(self._learner.updates, weights or self.network.snapshot())
        self._guard.renew()

    @property
    def mode(self) -> GuardMode:
        """The guard's mode."""
        return self._guard.mode

    @property
    def unarmed_because(self) -> str | None:
        """What is missing before the guard can act, in words; None when it is armed."""
        return self._guard.unarmed_because

    @property
    def probe(self) -> ProbeInfo | None:
        """The probe set in words."""
        return self._guard.probe.info if self._guard.probe else None

    @property
    def probe_stale(self) -> bool:
        """Whether the gate keeps undoing steps in which the guard suspects nothing."""
        return sum(self._unexplained) >= STALE_SHARE * STALE_WINDOW

    @property
    def drift(self) -> bool:
        """Whether producers were seen to change together at the last step."""
        return self._drift

    @property
    def breaker_open(self) -> bool:
        """Whether the guard holds too much of what most producers send; open until the mode is set anew."""
        return self._breaker.open

    @property
    def vaccine_age(self) -> int | None:
        """Steps since the vaccine in force was made, None without one."""
        return self._guard.vaccine_age

    @property
    def vaccine_due(self) -> bool:
        """Whether the next step that is judged makes a vaccine first, which takes as long as many steps."""
        return self._guard.vaccine_due

    @property
    def unvaccinated_because(self) -> str | None:
        """Why the guard has no vaccine, in words; None when it has one, or will at the next step."""
        return self._guard.unvaccinated_because

    @property
    def ranks(self) -> int:
        """How many processes share its work."""
        return self._ranks.size

    @property
    def updates(self) -> int:
        """Updates in the weights."""
        return self._learner.updates

    @property
    def parameters(self) -> int:
        """Numbers the optimizer may change."""
        return sum(p.numel() for p in self.network.module.parameters())

    @property
    def sample_threshold(self) -> float | None:
        """The threshold on a sample's score in force."""
        return self._guard.sample_threshold

    @property
    def progressive_accuracy(self) -> float | None:
        """Accuracy of predictions made before learning, over the configured window."""
        return self._progressive.accuracy

    def probe_accuracy(self) -> float | None:
        """Accuracy on the probe set's report part, which nothing is decided with; ``refresh`` updates old at most."""
        return self._accuracy()

    def _accuracy(self) -> float | None:
        if self._guard.probe is None or self._probe_accuracy is not None:
            return self._probe_accuracy
        part = self._guard.probe.part("report")
        with self._ranks.together("report"):
            correct = self.task.correct(self.predict(self._ranks.own(part.x)), self._ranks.own(part.y))
        return float(self._ranks.gather(correct, len(part.y)).float().mean())

    def producers(self) -> tuple[ProducerReport, ...]:
        """Every known producer's record."""
        return self._guard.producers.report()

    def state(self) -> State:
        """Everything a restart needs: model, optimizer, snapshots, guard, gate and the running figures."""
        return State.merge(
            self._learner.state().nest("learner"),
            self._snapshots.state().nest("snapshots"),
            self._guard.state().nest("guard"),
            self._transaction.state().nest("transaction"),
            self._progressive.state().nest("progressive"),
            self._breaker.state().nest("breaker"),
            State(
                {},
                {
                    "unexplained": list(self._unexplained),
                    "drift": self._drift,
                    "probe_accuracy": self._probe_accuracy,
                    "probe_age": self._probe_age,
                },
            ),
        )

    def load_state(self, state: State) -> None:
        """Replace everything that ``state()`` holds; the configuration stays this engine's own.

        Raises InvalidProbe when the probe set in it is too small for this configuration.
        """
        self._learner.load_state(state.part("learner"))
        self._snapshots.load_state(state.part("snapshots"), self.network.module.state_dict())
        self._guard.load_state(state.part("guard"))
        # Not there in the states of earlier versions: measured anew then.
        self._probe_accuracy, self._probe_age = state.values.get("probe_accuracy"), state.values.get("probe_age", 0)
        self._transaction.load_state(state.part("transaction"))
        self._progressive.load_state(state.part("progressive"))
        self._breaker.load_state(state.part("breaker"))
        self._drift = state.values["drift"]
        self._unexplained = deque(state.values["unexplained"], maxlen=STALE_WINDOW)
        self._check(self._guard.probe, self.mode)

    def roll_back(self, state: State) -> None:
        """Take model, optimizer, ring and anchor from an older state; mode, probe set and producers' evidence stay."""
        self._learner.load_state(state.part("learner"))
        self._snapshots.load_state(state.part("snapshots"), self.network.module.state_dict())
        self._guard.renew()
        self._transaction.reset()
        self._probe_accuracy = None
        self._unexplained.clear()

    def _learn(self, judged: Judgement, y: Tensor, step: Step, scored: Tensor | None) -> tuple[Judgement, Outcome]:
        """One update on what was admitted, undone when it is not finite or the gate refuses it.

        ``scored`` are the logits of the samples as they came, with their graph; corrected ones have others.
        """
        admitted = judged.admitted
        if not bool(admitted.any()):
            return judged, Outcome(None, None)
        gated = self.config.gate.enabled and self.mode is GuardMode.WEIR and not step.forced
        mine = self._ranks.counted(admitted)
        outcome = self._transaction.attempt(
            judged.x[mine],
            self._ranks.own(y)[mine],
            seed=self._seed(step),
            probe=self._guard.probe if gated else None,
            drift=self._drift if step.released else judged.drift,  # what was held of a new world belongs to it
            scored=None if scored is None or judged.corrects else scored[mine],
            total=int(admitted.sum()),
            size=max(len(admitted), self.config.step_size),
        )
        if outcome.kept:
            self._grow_older()
            self._keep()
            return judged, outcome
        reason = Reason.NON_FINITE if outcome.loss is None else Reason.VETO
        if outcome.gate is not None and outcome.gate.rolled_back:
            self._rolled_back()
            reason = Reason.ROLLBACK
        return replace(judged, verdicts=held(judged.verdicts, reason)), outcome

    def _grow_older(self) -> None:
        self._probe_age += 1
        if self._probe_age >= self.config.guard.refresh:
            self._probe_accuracy = None

    def _seed(self, step: Step) -> int:
        seed = 0 if step.x.is_meta else content_seed(self.config.seed, step)
        return int(self._ranks.agree(torch.tensor([seed])))

    def _rolled_back(self) -> None:
        """Nothing that was measured against the abandoned weights may stay."""
        self._probe_accuracy = None
        self._snapshots.forget_after(self._learner.updates)
        self._guard.renew()

    def _past_the_breaker(self, judged: Judgement, step: Step) -> Judgement:
        """Count what is held; while the breaker is open its policy decides and not the verdicts."""
        if step.released or self.mode is not GuardMode.WEIR:
            return judged
        self._breaker.observe(judged, step.producers, step.number)
        if not self._breaker.open:
            return judged
        if self.config.breaker.policy is BreakerPolicy.OBSERVE:
            return replace(judged, verdicts=passed(judged.verdicts))
        return replace(judged, verdicts=held(judged.verdicts, Reason.BREAKER))

    def _check(self, probe: ProbeSet | None, mode: GuardMode) -> None:
        if probe is not None:
            probe.check(self.recipe.inputs, replace(self.config.guard, mode=mode))

    def _keep(self) -> None:
        if self._snapshots.due(self._learner.updates):
            self._snapshots.record(self._learner.updates, self.network.snapshot())

    def _report(self, step: Step, judged: Judgement, outcome: Outcome) -> StepReport:
        reference = self._snapshots.reference()
        if self._probe_accuracy is None:
            self._probe_accuracy, self._probe_age = self._accuracy(), 0
        return StepReport(
            step=step.number,
            updates=self._learner.updates,
            mode=self.mode,
            armed=self.unarmed_because is None,
            verdicts=judged.verdicts,
            producers=tuple(step.producers),
            updated=any(v.verdict is not Verdict.QUARANTINE for v in judged.verdicts),
            loss=outcome.loss,
            progressive_accuracy=self.progressive_accuracy,
            probe_accuracy=self._probe_accuracy,
            step_discrepancy=judged.step_discrepancy,
            step_discrepancy_threshold=judged.step_discrepancy_threshold,
            step_score=judged.step_score,
            step_threshold=judged.step_threshold,
            sample_threshold=judged.sample_threshold,
            alarms=judged.alarms,
            alarmed_producers=judged.alarmed_producers,
            gate=outcome.gate,
            drift=judged.drift,
            vaccine_age=self._guard.vaccine_age,
            probe_stale=self.probe_stale,
            breaker_open=self._breaker.open,
            lag=self._learner.updates - reference.updates if reference else None,
            seconds=self._seconds,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = self._clock()
        yield
        self._seconds[stage] = self._seconds.get(stage, 0.0) + self._clock() - start
