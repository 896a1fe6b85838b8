"""What is done after each checkpoint so that nothing grows without bound: trimming the log, ageing the quarantine."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from weir.stores.base import Stores

logger = logging.getLogger("weir.trainer")
WEIR = "weir"  # who resolved what nobody did
NOTE = "nobody reviewed it in time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of what was learned stays for replays, in bytes, and how long held samples do, in seconds."""

    log_bytes: int = 4 << 30
    quarantine_seconds: float = 30 * 86_400.0


def keep_house(stores: Stores, retention: Retention, now: float) -> None:
    """Drop what retention no longer keeps.

    The log stays whole from the second newest checkpoint on: should the newest be damaged, the learner resumes there.
    """
    infos = stores.checkpoints.all()[-2:]
    if len(infos) < 2:
        return
    floor = stores.log.trim(min(info.cursor.position for info in infos), keep_bytes=retention.log_bytes)
    stores.journal.trim(floor)
    before = now - retention.quarantine_seconds
    expired = stores.quarantine.expire(before, by=WEIR, at=now, note=NOTE)
    if expired:
        logger.warning("%d held samples were discarded: %s", expired, NOTE)
    stores.quarantine.drop_resolved(before)
