"""What a stream is made of: labelled batches in turn, and the truth about them, which the guard never sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from weir.redteam import Corruption, Drift, Patch
from weir.types import Batch

HOSTILE = "mallory"
HONEST = ("ann", "ben", "cleo", "dan")
CROWD = "crowd"  # one key for right and wrong samples alike: no producer's record can tell them apart


class Phase(StrEnum):
    """A part of a stream."""

    BEFORE = "before"
    ATTACK = "attack"
    TRIGGER = "trigger"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of a stream before it is corrupted; ``producers[i]`` sends sample i."""

    phase: Phase
    batch: Batch
    producers: Sequence[str]
    corruption: Corruption | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """A scenario's turns; ``drift`` is the world that the test set is judged in, ``patch`` the backdoor to count."""

    turns: Sequence[Turn]
    drift: Drift | None = None
    patch: Patch | None = None

    @property
    def hostile(self) -> bool:
        """Whether anyone means harm."""
        return any(turn.corruption is not None and turn.corruption.hostile for turn in self.turns)


def truth(turn: Turn) -> Tensor:
    """Which samples (n,) bool of a turn are corrupted, by malice or not."""
    count = turn.corruption.threat.hostile(len(turn.batch)) if turn.corruption else 0
    return torch.arange(len(turn.batch)) < count
