"""What people ask of the learner, as log entries: each gives a JSON-ready result, an error included."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from weir import codec
from weir.core import Engine
from weir.errors import InvalidInput, StorageFailed, WeirError
from weir.stores.base import CheckpointInfo, Entry, EntryKind, Held, HeldState, Stores
from weir.types import GuardMode, SampleRef, Step, StepReport


class Outcome(NamedTuple):
    """What a command gave, JSON-ready, and what others may see of it once that is in the journal."""

    result: Mapping[str, Any]
    effect: Callable[[], object] = lambda: None
    refs: Sequence[SampleRef] = ()  # the samples it learned, if any
    report: StepReport | None = None


class Host(Protocol):
    """What a command needs of the trainer."""

    engine: Engine
    stores: Stores
    step: int

    def learn(self, step: Step) -> StepReport:
        """Process one step of released samples and tell the listeners."""

    def checkpoint(self, reason: str) -> CheckpointInfo:
        """Write a checkpoint now."""

    def rolled_back(self) -> None:
        """Count a rollback."""


def run(host: Host, entry: Entry) -> Outcome:
    """Carry out one command; a WeirError becomes the result ``{"error": ...}``, but for StorageFailed.

    A disk that fails half-way leaves the engine changed and its record unwritten: only a restart makes that good.
    """
    try:
        return COMMANDS[entry.kind](host, entry)
    except StorageFailed:
        raise
    except WeirError as error:
        return Outcome({"error": problem(error)})


def problem(error: WeirError) -> dict[str, Any]:
    """An error as JSON-ready values."""
    values = {"code": error.code, "detail": str(error)}
    if isinstance(error, InvalidInput):
        values |= {"field": error.field, "seen": error.seen, "expected": error.expected}
    return values


def release(host: Host, entry: Entry) -> Outcome:
    """Learn one held sample that a reviewer let through; the gate may still refuse it, unless an admin forces it.

    The log entry decides, not the sample's state: after a crash, weights that had lost the sample learn it again.
    """
    order = json.loads(entry.payload)
    held = host.stores.quarantine.get(order["id"])
    step = _released_step(held, order["label"], host.step, forced=order["force"])
    report = host.learn(step)
    state = HeldState.RELEASED if report.updated else HeldState.RELEASE_VETOED

    def effect() -> object:
        anything = tuple(HeldState)
        by, at, label = order["by"], entry.created_at, order["label"]
        return host.stores.quarantine.move(held.id, state, expect=anything, by=by, at=at, relabel=label)

    return Outcome({"state": state.value, "step": host.step}, effect, step.refs, report)


def rollback(host: Host, entry: Entry) -> Outcome:
    """Restore an older model; the cursor stays, since what came after it is the suspect."""
    order = json.loads(entry.payload)
    info, state = host.stores.checkpoints.load(order["checkpoint"])
    host.engine.roll_back(state.part("engine"))
    last = host.step - 1  # the rollback has a number of its own
    host.stores.journal.roll_back(info.step + 1, last)
    host.rolled_back()
    written = host.checkpoint(f"rollback to {info.id}")
    return Outcome({"restored": info.id, "checkpoint": written.id, "step": host.step, "steps": last - info.step})


def checkpoint(host: Host, entry: Entry) -> Outcome:
    """Write a checkpoint."""
    return Outcome(asdict(host.checkpoint(json.loads(entry.payload)["reason"])))


def probe(host: Host, entry: Entry) -> Outcome:
    """Replace the probe set."""
    batch = codec.load(entry.payload)
    info = host.engine.set_probe(batch.x, batch.y, created_at=entry.created_at, source=entry.producer)
    return Outcome(asdict(info))


def mode(host: Host, entry: Entry) -> Outcome:
    """Change the guard's mode."""
    host.engine.set_mode(GuardMode(json.loads(entry.payload)["mode"]))
    return Outcome({"mode": host.engine.mode.value, "armed": host.engine.unarmed_because is None})


COMMANDS: dict[EntryKind, Callable[[Host, Entry], Outcome]] = {
    EntryKind.RELEASE: release,
    EntryKind.ROLLBACK: rollback,
    EntryKind.CHECKPOINT: checkpoint,
    EntryKind.PROBE: probe,
    EntryKind.MODE: mode,
}


def _released_step(held: Held, label: int | None, number: int, *, forced: bool) -> Step:
    sample = codec.load(held.payload)
    y = sample.y if label is None else sample.y.new_tensor([label])
    ref = SampleRef(held.batch, held.index)
    return Step(number, sample.x, y, [ref], [held.producer], released=True, forced=forced)
