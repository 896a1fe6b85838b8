"""The guard's mode."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from weir.api import bodies, commands
from weir.api.auth import ADMINISTER, READ, Caller, GuardedRoute
from weir.api.problems import responses
from weir.api.schemas.common import Queued
from weir.api.schemas.model import ModeView, SetMode
from weir.api.service import App
from weir.stores.base import EntryKind

router = APIRouter(prefix="/v1/mode", tags=["guard"], route_class=GuardedRoute)


@router.get("", dependencies=[Depends(READ)])
def read_mode(service: App) -> ModeView:
    """What the guard does with its evidence, whether it is armed, and if not, why."""
    return ModeView.model_validate(service.learner.status)


@router.put(
    "",
    dependencies=[Depends(ADMINISTER)],
    openapi_extra=bodies.documented(SetMode.model_json_schema()),
    responses={202: {"model": Queued, "description": "Not in force yet"}, **responses(409, 415)},
)
async def set_mode(request: Request, response: Response, service: App, who: Caller) -> ModeView | Queued:
    """Change it: weir, dsc (the published rule), observe (judge, hold nothing) or off."""
    wish = await bodies.read_json(request, SetMode, service.limits.body_seconds)
    command = {"mode": wish.mode}
    entry = await run_in_threadpool(commands.append, service, who, EntryKind.MODE, command, target=wish.mode)
    return await commands.outcome(service, response, entry, ModeView.model_validate)
