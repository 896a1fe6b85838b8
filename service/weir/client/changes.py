"""What the client gives back of changes to the model and to what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weir.stores.base import Cursor


@dataclass(frozen=True, slots=True)
class CommandReport:
    """A command, given ``by`` somebody: queued, done with a ``result``, or failed with an ``error``."""

    id: str
    kind: str
    by: str
    state: str
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """A durable, restorable state; from a ``replayable`` one on the log is still whole."""

    id: str
    step: int
    cursor: Cursor
    created_at: float
    bytes: int
    reason: str
    digest: str
    replayable: bool


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """A rollback: the ``restored`` checkpoint, the one saved after it, the step now, and how many steps were undone."""

    restored: str
    checkpoint: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class PublishReport:
    """A replay's result that is now the model, its accuracy and the one before; undo it by a rollback."""

    candidate: str
    checkpoint: str
    step: int
    accuracy: float | None
    accuracy_before: float | None
    left_out: int


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """How much was erased, or in a ``dry_run`` would be, and the ``checkpoints`` whose weights learned from it.

    ``checkpoint`` is the one that was saved before.
    """

    dry_run: bool
    entries: int
    samples: int
    quarantine: int
    dead_letters: int
    checkpoints: tuple[str, ...] | None = None
    checkpoint: str | None = None
