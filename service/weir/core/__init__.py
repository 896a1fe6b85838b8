"""The machine that learns and guards: torch, the standard library and nothing else."""

from weir.core.burnin import BurnIn, burn_in
from weir.core.config import (
    BreakerConfig,
    CorrectionConfig,
    EngineConfig,
    GateConfig,
    GuardConfig,
    LearnerConfig,
    SnapshotConfig,
)
from weir.core.engine import Engine
from weir.core.models import build
from weir.core.reader import Reader

__all__ = [
    "BreakerConfig",
    "BurnIn",
    "CorrectionConfig",
    "Engine",
    "EngineConfig",
    "GateConfig",
    "GuardConfig",
    "LearnerConfig",
    "Reader",
    "SnapshotConfig",
    "build",
    "burn_in",
]
