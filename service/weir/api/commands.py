"""Commands to the learner: audited log entries, the bounded wait for what it decides, and the way to ask later."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Response

from weir.api.auth import INSPECT, GuardedRoute, Identity
from weir.api.problems import CommandFailed, responses, told
from weir.api.schemas.common import CommandState, CommandView, Queued
from weir.api.service import App, Service
from weir.errors import NotFound, NotReady
from weir.stores.base import AuditRecord, Entry, EntryKind

router = APIRouter(prefix="/v1/commands", tags=["commands"], route_class=GuardedRoute)

_SLICE_SECONDS = 0.5
_CROWDED_SLICE_SECONDS = 0.02
_PUBLISH_SECONDS = 0.001

_V = TypeVar("_V")


@router.get("/{id}", dependencies=[Depends(INSPECT)], responses=responses(404))
def read_command(id: str, service: App) -> CommandView:
    """What became of a command that was answered with 202; known as long as the log keeps it."""
    entry = service.stores.log.get(id)
    if entry.kind is EntryKind.BATCH:
        raise NotFound("command", id)
    result = service.stores.journal.outcome(id)
    view = CommandView(id=id, kind=entry.kind, by=entry.producer, state=CommandState.QUEUED)
    if result is None:
        return view
    if "error" in result:
        return view.model_copy(update={"state": CommandState.FAILED, "error": told(result["error"])})
    return view.model_copy(update={"state": CommandState.DONE, "result": dict(result)})


def require_trainer(service: Service) -> None:
    """Raise NotReady unless somebody is there to carry out a command."""
    if not service.learner.status.alive:
        raise NotReady("the trainer has stopped: see /health/ready and the log, then restart the service")


def audit(service: Service, who: Identity, action: str, target: str, **detail: Any) -> None:
    """Write down what a person does; blocks."""
    service.stores.audit.record(AuditRecord(service.clock(), who.name, action, target, detail))


def append(service: Service, who: Identity, kind: EntryKind, command: Mapping[str, Any] | bytes, target: str) -> Entry:
    """Audit a command and append it durably; blocks. Raises NotReady when the trainer has stopped."""
    require_trainer(service)
    detail = {} if isinstance(command, bytes) else command
    payload = command if isinstance(command, bytes) else json.dumps({**command, "by": who.name}).encode()
    audit(service, who, kind, target, **detail)
    entry, _ = service.stores.log.append(kind, who.name, payload)
    return entry


async def outcome(
    service: Service, response: Response, entry: Entry, view: Callable[[Mapping[str, Any]], _V]
) -> _V | Queued:
    """The view of a command's result; a 202 if that takes too long. Raises CommandFailed."""
    await decided(service, entry, service.limits.command_seconds)
    result = await run_sync(service.stores.journal.outcome, entry.id)
    if result is None:
        response.status_code = 202
        response.headers["Location"] = f"{router.prefix}/{entry.id}"
        return Queued(id=entry.id, durability=await run_sync(service.durability))
    if "error" in result:
        raise CommandFailed(result["error"])
    return view(result)


async def decided(service: Service, entry: Entry, seconds: float) -> None:
    """Return when the learner has decided on all of an entry and published what it made of it, or after ``seconds``.

    The journal's wait holds a thread, and there are only so many. While some are free an entry keeps its
    thread and hears at once. When others stand in line it takes short turns, first come first served, so
    that a thousand waiting requests cost as many threads as a few, and all of them get theirs.
    """
    with anyio.move_on_after(seconds):
        while True:
            crowded = service.waiters.statistics().tasks_waiting
            turn = min(seconds, _CROWDED_SLICE_SECONDS if crowded else _SLICE_SECONDS)
            wait = service.stores.journal.wait
            if await run_sync(wait, entry.id, entry.samples, turn, limiter=service.waiters):
                break
        # The journal comes first; whoever has waited and then predicts must meet the model that learned it.
        while service.learner.status.alive and service.learner.status.position < entry.position:
            service.learner.attend()
            await anyio.sleep(_PUBLISH_SECONDS)
