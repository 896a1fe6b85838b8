"""Checkpoints, and the way back to one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from weir.api import bodies, commands
from weir.api.auth import ADMINISTER, READ, Caller, GuardedRoute, Identity
from weir.api.problems import responses
from weir.api.schemas.checkpoints import CheckpointPage, CheckpointView, Rollback, RolledBack, SaveCheckpoint
from weir.api.schemas.common import Queued
from weir.api.service import App, Service
from weir.errors import NotFound
from weir.stores.base import Entry, EntryKind

router = APIRouter(prefix="/v1", tags=["checkpoints"], route_class=GuardedRoute)

_QUEUED: dict[int | str, dict[str, Any]] = {202: {"model": Queued, "description": "Not carried out yet"}}


@router.get("/checkpoints", dependencies=[Depends(READ)])
def list_checkpoints(service: App) -> CheckpointPage:
    """The checkpoints that can be restored, oldest first, and from which of them a replay can begin."""
    floor = service.stores.log.floor()
    items = [CheckpointView.of(info, floor) for info in service.learner.checkpoints()]
    return CheckpointPage(items=items, floor=floor)


@router.post(
    "/checkpoints",
    status_code=201,
    dependencies=[Depends(ADMINISTER)],
    openapi_extra=bodies.documented(SaveCheckpoint.model_json_schema(), required=False),
    responses={**_QUEUED, **responses(415)},
)
async def save_checkpoint(request: Request, response: Response, service: App, who: Caller) -> CheckpointView | Queued:
    """Save a checkpoint now, between two steps."""
    wish = await bodies.read_json(request, SaveCheckpoint, service.limits.body_seconds)
    command = wish.model_dump()
    entry = await run_in_threadpool(commands.append, service, who, EntryKind.CHECKPOINT, command, target="model")
    floor = await run_in_threadpool(service.stores.log.floor)
    return await commands.outcome(service, response, entry, lambda result: CheckpointView.of_result(result, floor))


@router.post(
    "/rollback",
    dependencies=[Depends(ADMINISTER)],
    openapi_extra=bodies.documented(Rollback.model_json_schema()),
    responses={**_QUEUED, **responses(404, 409, 415)},
)
async def roll_back(request: Request, response: Response, service: App, who: Caller) -> RolledBack | Queued:
    """Restore the weights of a checkpoint. What the log brought since is not learned again."""
    wish = await bodies.read_json(request, Rollback, service.limits.body_seconds)
    entry = await run_in_threadpool(_roll_back, service, who, wish.checkpoint)
    return await commands.outcome(service, response, entry, RolledBack.model_validate)


def _roll_back(service: Service, who: Identity, checkpoint: str) -> Entry:
    if checkpoint not in {info.id for info in service.learner.checkpoints()}:
        raise NotFound("checkpoint", checkpoint)
    return commands.append(service, who, EntryKind.ROLLBACK, {"checkpoint": checkpoint}, target=checkpoint)
