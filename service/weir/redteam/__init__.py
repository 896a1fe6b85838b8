"""Attacks behind one interface, and the budget that the harness holds them to.

``weir.redteam.producer`` is left out here: it needs the client, and a machine that only computes has none.
"""

from weir.redteam.accumulative import Accumulative, Trigger
from weir.redteam.attack import Attack, LabelAttack
from weir.redteam.backdoor import Patch, success_rate
from weir.redteam.cocktail import Cocktail
from weir.redteam.drift import Drift
from weir.redteam.labels import PairwiseFlip, RandomFlip
from weir.redteam.ratchet import Ratchet
from weir.redteam.skew import Skew
from weir.redteam.threat import Knowledge, ThreatModel

__all__ = [
    "Accumulative",
    "Attack",
    "Cocktail",
    "Drift",
    "Knowledge",
    "LabelAttack",
    "PairwiseFlip",
    "Patch",
    "RandomFlip",
    "Ratchet",
    "Skew",
    "ThreatModel",
    "Trigger",
    "success_rate",
]
