"""The tunables of core, as frozen values; every field says in its metadata what it does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from weir.errors import InvalidSetting
from weir.types import Arithmetic, BreakerPolicy, DeclinePolicy, EvidenceSet, GuardMode


def tunable(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with its help text and its allowed range (inclusive)."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunables:
    """Base of the configs: checks every field against its range when made; raises InvalidSetting."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, low, high = getattr(self, field.name), field.metadata.get("low"), field.metadata.get("high")
            if value is None or isinstance(value, Tunables):
                continue
            if (low is not None and not value >= low) or (high is not None and not value <= high):  # not: NaN
                bounds = f"{'-inf' if low is None else low} to {'inf' if high is None else high}"
                raise InvalidSetting(field.name, value, f"a value from {bounds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig(Tunables):
    """The optimizer (SGD) and how batch norm learns."""

    lr: float = tunable(0.01, "learning rate of the SGD step", low=0.0)
    momentum: float = tunable(0.0, "momentum of the SGD step", low=0.0, high=1.0)
    weight_decay: float = tunable(0.0, "L2 penalty of the SGD step", low=0.0)
    freeze_norm: bool = tunable(True, "keep batch-norm statistics as burn-in left them")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotConfig(Tunables):
    """Which historical model the memorization discrepancy is measured against."""

    lag: int | None = tunable(None, "updates between the snapshot and now; unset: the trusted anchor", low=1)
    every: int = tunable(1, "updates between two snapshots of the ring", low=1)
    arithmetic: Arithmetic = tunable(
        Arithmetic.AUTO,
        "what the anchor and the gate's glances score in: float32, bfloat16, or auto: bfloat16 for a million "
        "parameters and more, where the device is made for it",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionConfig(Tunables):
    """Discrepancy-aware sample correction of single suspects."""

    enabled: bool = tunable(False, "weir: try to correct a single suspect before it is held")
    epsilon: float = tunable(0.3, "radius of the L-infinity ball, in units of x as the model sees it", low=0.0)
    steps: int = tunable(10, "most descent steps a sample gets", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig(Tunables):
    """What the guard takes for suspect, as false-positive rates on trusted data."""

    mode: GuardMode = tunable(GuardMode.WEIR, "weir, dsc (the published rule), observe or off")
    sample_rate: float = tunable(0.01, "share of clean samples that may be suspected one by one", low=1e-6, high=0.5)
    step_rate: float = tunable(0.001, "share of clean steps that may raise an alarm", low=1e-9, high=0.5)
    producer_rate: float = tunable(0.001, "share of clean producer windows that may raise an alarm", low=1e-9, high=0.5)
    producer_window: int = tunable(200, "newest samples of a producer that are judged together", low=2)
    per_class: int = tunable(100, "probe samples a class needs for a threshold of its own", low=2)
    refresh: int = tunable(
        32,
        "steps in which each probe sample is measured anew, some at each; with a lag all at each step",
        low=1,
    )
    evidence: EvidenceSet = tunable(
        EvidenceSet.ALL, "signals that verdicts rest on: all, no-images, model, discrepancy or companions"
    )
    vaccine: bool = tunable(True, "learn from poison crafted out of the probe set, where a poisoner is there")
    vaccine_refresh: int = tunable(2_000, "steps between two vaccinations", low=1)
    narrow_rate: float = tunable(
        0.1, "largest share of clean samples that an alarm may hold where it is not all of a group", low=1e-6, high=1.0
    )
    dsc_base: float | None = tunable(0.5, "dsc: threshold at step 0, nats; unset: calibrated on the probe set", low=0.0)
    dsc_slope: float = tunable(0.02, "dsc: growth of the threshold per step, nats", low=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig(Tunables):
    """The test that a tentative step must pass on the probe set's gate part."""

    enabled: bool = tunable(True, "test every tentative step and undo it when it hurts")
    rate: float = tunable(0.005, "share of harmless steps that may be undone", low=1e-9, high=0.5)
    tolerance: float = tunable(0.02, "mean harm that one step may do, nats of loss", low=0.0)
    drift_tolerance: float = tunable(0.5, "the same while producers change together, and unlearning is due", low=0.0)
    decline: float = tunable(0.05, "mean harm that all steps since the best may do together, nats of loss", low=0.0)
    turns: int = tunable(4, "steps in which a glance goes through the gate's samples; 1: test each step on all", low=1)
    decline_policy: DeclinePolicy = tunable(
        DeclinePolicy.VETO, "what a decline leads to besides its alarm, unless it is drift: veto, rollback or alarm"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig(Tunables):
    """When the guard holds too much for it to be a producer's fault."""

    ratio: float = tunable(0.5, "held share of what the median producer sends that opens the breaker", low=0.0)
    policy: BreakerPolicy = tunable(
        BreakerPolicy.PAUSE, "what it does until the mode is set anew: pause, observe or off"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig(Tunables):
    """Everything that makes one engine behave as it does."""

    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)
    correction: CorrectionConfig = dataclasses.field(default_factory=CorrectionConfig)
    snapshots: SnapshotConfig = dataclasses.field(default_factory=SnapshotConfig)
    gate: GateConfig = dataclasses.field(default_factory=GateConfig)
    breaker: BreakerConfig = dataclasses.field(default_factory=BreakerConfig)
    step_size: int = tunable(
        100, "samples of one full step; in a smaller one each weighs as in a full one", low=1, high=100_000
    )
    device: str = tunable("cpu", "where the model lives: cpu, cuda, cuda:1, ...")
    seed: int = tunable(0, "seed of everything random that is not derived from content", low=0)
    progressive_window: int = tunable(500, "samples that the progressive accuracy looks back on", low=1)
