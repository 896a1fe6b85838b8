"""Attacks behind one interface, and the budget that the harness holds them to.

``weir.redteam.producer`` is left out here: it needs the client, and a machine that only computes has none.
"""

from weir.redteam.accumulative import Accumulative, Trigger
from weir.redteam.attack import Attack
from weir.redteam.threat import Knowledge, ThreatModel

__all__ = ["Accumulative", "Attack", "Knowledge", "ThreatModel", "Trigger"]
