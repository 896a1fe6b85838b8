"""Attacks behind one interface, and the budget that the harness holds them to.

``producer`` and ``campaign`` are left out here: they need the client, and a machine that only computes has none.
"""

from weir.redteam.accumulative import Accumulative, Once, Trigger
from weir.redteam.attack import Attack, LabelAttack
from weir.redteam.aware import Aware, Insight, Observed
from weir.redteam.backdoor import Patch, success_rate
from weir.redteam.cocktail import Cocktail
from weir.redteam.corruption import Corruption
from weir.redteam.drift import Drift
from weir.redteam.labels import PairwiseFlip, RandomFlip
from weir.redteam.pool import Pool
from weir.redteam.ratchet import Ratchet
from weir.redteam.skew import Skew
from weir.redteam.threat import Knowledge, ThreatModel

__all__ = [
    "Accumulative",
    "Attack",
    "Aware",
    "Cocktail",
    "Corruption",
    "Drift",
    "Insight",
    "Knowledge",
    "LabelAttack",
    "Observed",
    "Once",
    "PairwiseFlip",
    "Patch",
    "Pool",
    "RandomFlip",
    "Ratchet",
    "Skew",
    "ThreatModel",
    "Trigger",
    "success_rate",
]
