"""What people ask of the learner, as log entries: each gives a JSON-ready result, an error included."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from weir import codec
from weir.core import Engine
from weir.errors import (
    Conflict,
    DamagedCheckpoint,
    Fenced,
    GroupLost,
    InvalidInput,
    NotFound,
    RankFailed,
    StorageFailed,
    WeirError,
)
from weir.stores import erasure
from weir.stores.base import CheckpointInfo, Decision, Entry, EntryKind, Held, HeldState, Lineage, Stores
from weir.trainer.erasure import learned_by
from weir.trainer.rerun import NewEngine, Rerun, on_record, released_step
from weir.trainer.saved import Saved
from weir.types import GuardMode, SampleRef, SampleVerdict, Step, StepReport


class Unprocessable(Exception):
    """Something that a batch or a command made the engine raise: its fault, not that of the stores."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


class Outcome(NamedTuple):
    """What a command gave, JSON-ready, and the samples it decided on."""

    result: Mapping[str, Any]
    refs: Sequence[SampleRef] = ()
    verdicts: Sequence[SampleVerdict] = ()
    updated: bool = False
    vetoed: bool = False


class Host(Protocol):
    """What a command needs of the trainer."""

    engine: Engine
    new_engine: NewEngine
    stores: Stores
    step: int

    def learn(self, step: Step, recorded: Sequence[SampleVerdict] | None) -> StepReport:
        """Process one step; raises Unprocessable."""

    def checkpoint(self, reason: str, answer: Outcome | None = None) -> CheckpointInfo:
        """Write a checkpoint now, as part of the command that is being carried out if it has an ``answer``."""

    def rolled_back(self, lineage: Lineage) -> None:
        """Take over the lineage of other weights, and count a rollback."""


def run(host: Host, entry: Entry, recorded: Decision | None) -> Outcome:
    """Carry out one command; a WeirError becomes the result ``{"error": ...}``.

    With a ``recorded`` decision of an earlier try its result stands: what it changed in the engine is done again, and
    nothing else is. Raises StorageFailed, Fenced, GroupLost, DamagedCheckpoint when an earlier try cannot be repeated,
    and Unprocessable for everything else.
    """
    try:
        return COMMANDS[entry.kind](host, entry, None) if recorded is None else _again(host, entry, recorded)
    except (StorageFailed, Fenced, GroupLost, Unprocessable):
        raise
    except RankFailed as error:
        raise Unprocessable(error) from error
    except WeirError as error:
        if recorded is not None:
            raise
        return Outcome({"error": problem(error)})
    except Exception as error:
        raise Unprocessable(error) from error


def failed(why: str) -> Outcome:
    """The outcome of a command that raised, every time it was tried."""
    return Outcome({"error": {"code": "command_failed", "detail": why}})


def problem(error: WeirError) -> dict[str, Any]:
    """An error as JSON-ready values."""
    values = {"code": error.code, "detail": str(error)}
    if isinstance(error, InvalidInput):
        values |= {"field": error.field, "seen": error.seen, "expected": error.expected}
    return values


def _again(host: Host, entry: Entry, recorded: Decision) -> Outcome:
    done = "error" in recorded.result or entry.kind in (EntryKind.CHECKPOINT, EntryKind.ERASE)
    if not done:
        try:
            COMMANDS[entry.kind](host, entry, recorded)
        except NotFound as error:
            why = f"what the {entry.kind} at position {entry.position} took is gone ({error})"
            raise DamagedCheckpoint(f"{why}: restore a newer checkpoint from a copy") from error
    return Outcome(recorded.result, recorded.refs, recorded.verdicts, recorded.updated, recorded.vetoed)


def release(host: Host, entry: Entry, recorded: Decision | None) -> Outcome:
    """Learn held samples that a reviewer let through; the gate may still refuse them, unless an admin forces it.

    What is learned is decided here, in log order, so that of two releases of a sample the second is refused.
    """
    order = json.loads(entry.payload)
    if recorded is None:
        held, refused = _releasable(host.stores, order["ids"], forced=order["force"])
    else:
        held, refused = _still_there(host.stores, recorded.result["ids"]), []
    if not held:
        return Outcome({"error": {name: refused[0][name] for name in ("code", "detail")}} if refused else {})
    step = released_step(held, order["label"], host.step, forced=order["force"])
    report = host.learn(step, on_record(step.refs, recorded))
    state = HeldState.RELEASED if report.updated else HeldState.RELEASE_VETOED
    result = {"state": state.value, "step": host.step, "ids": [one.id for one in held], "refused": refused}
    return Outcome(result, step.refs, report.verdicts, report.updated, report.vetoed)


def rollback(host: Host, entry: Entry, recorded: Decision | None) -> Outcome:
    """Restore an older model; the cursor stays, since what came after it is the suspect."""
    info, state = host.stores.checkpoints.load(json.loads(entry.payload)["checkpoint"])
    host.engine.roll_back(state.part("engine"))
    last = host.step - 1  # the rollback has a number of its own
    host.rolled_back(Saved.of(state).lineage)
    outcome = Outcome({"restored": info.id, "step": host.step, "steps": last - info.step})
    return _with_checkpoint(host, f"rollback to {info.id}", outcome)


def replay(host: Host, entry: Entry, recorded: Decision | None) -> Outcome:
    """Take the model of a replay in place of this one, after it has learned what came since it ended."""
    candidate = json.loads(entry.payload)["candidate"]
    rerun = Rerun.resumed(host.stores, host.new_engine, candidate)
    while rerun.advance(entry.position - 1, partial=True):
        pass
    before = host.engine.probe_accuracy()
    host.engine.load_state(rerun.engine.state())
    host.rolled_back([*rerun.saved.lineage, (host.step, host.step)])
    figures = {"accuracy_before": before, "accuracy": host.engine.probe_accuracy(), "left_out": rerun.left_out}
    result = {"candidate": candidate, "step": host.step, **figures}
    outcome = Outcome(result, list(rerun.verdicts), list(rerun.verdicts.values()), updated=True)
    return _with_checkpoint(host, f"replay from {rerun.order.checkpoint}", outcome)


def checkpoint(host: Host, entry: Entry, recorded: Decision | None) -> Outcome:
    """Write a checkpoint."""
    return Outcome(asdict(host.checkpoint(json.loads(entry.payload)["reason"], Outcome({}))))


def erase(host: Host, entry: Entry, recorded: Decision | None) -> Outcome:
    """Write a checkpoint, so that no recovery needs what is erased; then it is, once that is in the journal."""
    found = erasure.find(host.stores, erasure.Target.of(json.loads(entry.payload)), entry.position)
    result = {**found.to_values(), "checkpoints": learned_by(host.stores, found)}
    return _with_checkpoint(host, "erase", Outcome(result))


def probe(host: Host, entry: Entry, recorded: Decision | None) -> Outcome:
    """Replace the probe set."""
    batch = codec.load(entry.payload)
    info = host.engine.set_probe(batch.x, batch.y, created_at=entry.created_at, source=entry.producer)
    return Outcome(asdict(info))


def mode(host: Host, entry: Entry, recorded: Decision | None) -> Outcome:
    """Change the guard's mode."""
    host.engine.set_mode(GuardMode(json.loads(entry.payload)["mode"]))
    return Outcome({"mode": host.engine.mode.value, "armed": host.engine.unarmed_because is None})


def _releasable(stores: Stores, ids: Sequence[str], *, forced: bool) -> tuple[list[Held], list[dict[str, str]]]:
    """The samples that may be released, and why the others may not."""
    expect = (HeldState.HELD, HeldState.RELEASE_VETOED) if forced else (HeldState.HELD,)
    held, refused = [], []
    for id in dict.fromkeys(ids):
        try:
            one = stores.quarantine.get(id)
            if one.state not in expect:
                raise Conflict(f"sample {id!r} is {one.state}, expected {' or '.join(expect)}: look at it again")
            held.append(one)
        except (NotFound, Conflict) as error:
            refused.append({"id": id, "code": error.code, "detail": str(error)})
    return held, refused


def _still_there(stores: Stores, ids: Sequence[str]) -> list[Held]:
    """The samples of an earlier try that were not erased since."""
    held = []
    for id in ids:
        with suppress(NotFound):
            held.append(stores.quarantine.get(id))
    return held


def _with_checkpoint(host: Host, reason: str, outcome: Outcome) -> Outcome:
    info = host.checkpoint(reason, outcome)
    return outcome._replace(result={**outcome.result, "checkpoint": info.id})


COMMANDS: dict[EntryKind, Callable[[Host, Entry, Decision | None], Outcome]] = {
    EntryKind.RELEASE: release,
    EntryKind.ROLLBACK: rollback,
    EntryKind.REPLAY: replay,
    EntryKind.CHECKPOINT: checkpoint,
    EntryKind.ERASE: erase,
    EntryKind.PROBE: probe,
    EntryKind.MODE: mode,
}
