"""Replays: the model as it would be without some of what it learned, beside the model, until an admin publishes it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from weir.api import bodies, commands
from weir.api.auth import ADMINISTER, READ, Caller, GuardedRoute, Identity
from weir.api.problems import responses
from weir.api.schemas.common import Page, Queued
from weir.api.schemas.replay import OrderView, Published, Replay, ReplayView
from weir.api.service import App, Service
from weir.errors import Conflict
from weir.stores.base import Entry, EntryKind
from weir.types import ReplayOrder, ReplayReport, ReplayState

router = APIRouter(prefix="/v1/replay", tags=["replay"], route_class=GuardedRoute)

_WHY_NOT = {
    ReplayState.RUNNING: "is still running: wait for its end",
    ReplayState.CANCELLED: "was cancelled: begin another",
    ReplayState.FAILED: "failed: its error says why",
    ReplayState.DONE: "has no result to publish any more: begin another",
}


@router.post(
    "",
    status_code=202,
    dependencies=[Depends(ADMINISTER)],
    openapi_extra=bodies.documented(Replay.model_json_schema()),
    responses=responses(404, 409, 415),
)
async def start(request: Request, response: Response, service: App, who: Caller) -> ReplayView:
    """Begin a replay, one at a time; the service goes on learning, and nothing changes until it is published."""
    wish = await bodies.read_json(request, Replay, service.limits.body_seconds)
    report = await run_in_threadpool(_start, service, who, wish.order)
    response.headers["Location"] = f"{router.prefix}/{report.id}"
    return ReplayView.of(report)


@router.get("", dependencies=[Depends(READ)])
def list_replays(
    service: App, limit: Annotated[int | None, Query(description="at most so many, the newest")] = None
) -> Page[ReplayView]:
    """The replays since the service started, oldest first."""
    newest = service.replays.all()[-service.limits.page(limit) :]
    return Page[ReplayView](items=[ReplayView.of(report) for report in newest])


@router.get("/{id}", dependencies=[Depends(READ)], responses=responses(404))
def read_replay(id: str, service: App) -> ReplayView:
    """How far a replay is, and once it is done, how its result compares."""
    return ReplayView.of(service.replays.get(id))


@router.post("/{id}/cancel", dependencies=[Depends(ADMINISTER)], responses=responses(404, 409))
def cancel(id: str, service: App, who: Caller) -> ReplayView:
    """Stop a replay; its result is thrown away."""
    report = service.replays.cancel(id)
    commands.audit(service, who, "replay_cancel", id)
    return ReplayView.of(report)


@router.post(
    "/{id}/publish",
    dependencies=[Depends(ADMINISTER)],
    responses={202: {"model": Queued, "description": "Not published yet"}, **responses(404, 409)},
)
async def publish(id: str, response: Response, service: App, who: Caller) -> Published | Queued:
    """Put a replay's result in the model's place, between two steps. What came meanwhile is learned by it first."""
    entry = await run_in_threadpool(_publish, service, who, id)
    return await commands.outcome(service, response, entry, Published.model_validate)


def _start(service: Service, who: Identity, order: ReplayOrder) -> ReplayReport:
    report = service.replays.start(order, who.name)
    commands.audit(service, who, "replay_start", report.id, **asdict(order))
    return report


def _publish(service: Service, who: Identity, id: str) -> Entry:
    report = service.replays.get(id)
    if report.state is not ReplayState.DONE or report.candidate is None:
        raise Conflict(f"replay {id!r} {_WHY_NOT[report.state]}")
    command = {"candidate": report.candidate, "order": OrderView.of(report.order).model_dump()}
    return commands.append(service, who, EntryKind.REPLAY, command, target=id)
