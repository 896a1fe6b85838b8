"""What stands between a stream and a model: Weir, Weir without a part, what was published, and dummies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from weir.core import CorrectionConfig, Engine, EngineConfig, SnapshotConfig
from weir.core.correction import Correction
from weir.core.vaccine import Poisoner
from weir.redteam import Cocktail
from weir.redteam.cocktail import ATTACKS
from weir.types import Arithmetic, EvidenceSet, GuardMode, Reason, SampleVerdict, Step, StepReport, Verdict

CLIP_NORM = 0.5
COCKTAIL = Cocktail()

Process = Callable[[Engine, Step, float], StepReport]
Configure = Callable[[EngineConfig], EngineConfig]


def learn(engine: Engine, step: Step, rate: float) -> StepReport:
    """Leave everything to the engine."""
    return engine.process(step)


@dataclass(frozen=True, slots=True)
class Guard:
    """How an engine is configured, and how a step reaches it.

    ``process(engine, step, rate)`` is given the share of samples that Weir touches on the same stream if the guard
    ``imitates`` Weir, else 0. What is a ``dummy`` shows what a measure is worth.
    """

    name: str
    what: str
    configure: Configure
    process: Process = learn
    imitates: bool = False
    dummy: bool = False
    poisoner: Poisoner | None = COCKTAIL


def clip(engine: Engine, step: Step, rate: float) -> StepReport:
    """Learn with the norm of the whole gradient held to CLIP_NORM."""
    with _before_each_update(
        engine, lambda: torch.nn.utils.clip_grad_norm_(engine.network.module.parameters(), CLIP_NORM)
    ):
        return engine.process(step)


def accept(engine: Engine, step: Step, rate: float) -> StepReport:
    """Learn every sample, whatever the guard says; the gate still tests the step."""
    return engine.process(step, _all(step, Verdict.ACCEPT))


def hold(engine: Engine, step: Step, rate: float) -> StepReport:
    """Learn nothing."""
    return engine.process(step, _all(step, Verdict.QUARANTINE))


def hold_some(engine: Engine, step: Step, rate: float) -> StepReport:
    """Hold samples by lot."""
    generator = torch.Generator().manual_seed(engine.config.seed * 1_000_003 + step.number)
    drawn = torch.rand(len(step), generator=generator) < rate
    choice = {True: Verdict.QUARANTINE, False: Verdict.ACCEPT}
    return engine.process(step, [SampleVerdict(choice[lot], Reason.UNARMED) for lot in drawn.tolist()])


def correct(engine: Engine, step: Step, rate: float) -> StepReport:
    """Correct every sample as far as correction goes, without asking whether it is suspect."""

    def suspicious(x: Tensor, index: Tensor) -> Tensor:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    correction = Correction(engine.network, engine.task, engine.config.correction)
    y = step.y.to(engine.network.device)
    corrected = correction.correct(engine.network.prepare(step.x), y, suspicious).x
    return engine.process(replace(step, x=corrected.cpu()), _all(step, Verdict.CORRECT))


def _all(step: Step, verdict: Verdict) -> list[SampleVerdict]:
    return [SampleVerdict(verdict, Reason.UNARMED)] * len(step)


@contextmanager
def _before_each_update(engine: Engine, action: Callable[[], object]) -> Iterator[None]:
    parameters = list(engine.network.module.parameters())

    def accumulated(_: Tensor) -> None:
        if all(parameter.grad is not None for parameter in parameters):  # the last one of this backward pass
            action()

    handles = [p.register_post_accumulate_grad_hook(accumulated) for p in parameters]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unchanged(config: EngineConfig) -> EngineConfig:
    return config


def _guard(**values: Any) -> Configure:
    return lambda config: replace(config, guard=replace(config.guard, **values))


def _lag(lag: int) -> Configure:
    return lambda config: replace(config, snapshots=SnapshotConfig(lag=lag))


_off = _guard(mode=GuardMode.OFF)

GUARDS = {
    guard.name: guard
    for guard in (
        Guard("none", "learns everything", _off),
        Guard("clipping", f"gradient norm at most {CLIP_NORM}", _off, clip),
        Guard("dsc", "the published rule, 0.5 + 0.02 t", _guard(mode=GuardMode.DSC)),
        Guard(
            "dsc-calibrated",
            "the published rule, threshold from the probe set",
            _guard(mode=GuardMode.DSC, dsc_base=None),
        ),
        Guard("hold-nothing", "measures and lets everything pass", _guard(mode=GuardMode.OBSERVE), dummy=True),
        Guard("hold-all", "learns nothing", _off, hold, dummy=True),
        Guard("hold-random", "holds by lot as much as Weir touches", _off, hold_some, imitates=True, dummy=True),
        Guard("correct-all", "un-gated correction of every sample", _off, correct, dummy=True),
        Guard("gate-only", "no verdicts, but the gate", _unchanged, accept),
        Guard("weir", "the default configuration", _unchanged),
        Guard("weir-no-vaccine", "Fisher's combination instead", _guard(vaccine=False)),
        Guard("weir-no-discrepancy", "without snapshot divergences", _guard(evidence=EvidenceSet.COMPANIONS)),
        Guard("weir-no-companions", "memorization discrepancy alone", _guard(evidence=EvidenceSet.DISCREPANCY)),
        Guard("weir-no-images", "without image signals", _guard(evidence=EvidenceSet.NO_IMAGES)),
        Guard("weir-model-only", "nothing that looks at x itself", _guard(evidence=EvidenceSet.MODEL)),
        Guard("weir-no-gate", "without the gate", lambda c: replace(c, gate=replace(c.gate, enabled=False))),
        Guard(
            "weir-correction",
            "single suspects corrected",
            lambda c: replace(c, correction=CorrectionConfig(enabled=True)),
        ),
        Guard("weir-no-groups", "group tests at a rate of 1e-9", _guard(step_rate=1e-9, producer_rate=1e-9)),
        *(
            Guard(
                f"weir-unseen-{attack}",
                f"a vaccine that was not shown: {attack}",
                _unchanged,
                poisoner=Cocktail(without=frozenset({attack})),
            )
            for attack in ATTACKS
        ),
        Guard(
            "weir-bfloat16",
            "anchor and glances in bfloat16, as for large models",
            lambda c: replace(c, snapshots=SnapshotConfig(arithmetic=Arithmetic.BFLOAT16)),
        ),
        Guard("weir-lag-1", "against one update ago", _lag(1)),
        Guard("weir-lag-10", "against ten updates ago", _lag(10)),
        Guard("weir-lag-50", "against fifty updates ago", _lag(50)),
        Guard("weir-lag-200", "against two hundred updates ago", _lag(200)),
    )
}
