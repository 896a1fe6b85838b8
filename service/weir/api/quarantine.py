"""The quarantine: what is held back, and a reviewer's two answers to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from weir import codec
from weir.api import bodies, commands
from weir.api.auth import INSPECT, REVIEW, Caller, GuardedRoute, Identity
from weir.api.problems import responses
from weir.api.schemas import Discard, HeldDetail, HeldView, Page, Queued, Release, Released
from weir.api.service import App, Service
from weir.errors import Forbidden, InvalidInput
from weir.stores.base import Entry, EntryKind, HeldFilter, HeldState, Role
from weir.types import Reason

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"], route_class=GuardedRoute)

_LARGEST = 2**31 - 1


@router.get("", dependencies=[Depends(INSPECT)])
def list_held(
    service: App,
    state: Annotated[HeldState | None, Query(description="only samples in this state")] = None,
    producer: Annotated[str | None, Query(description="only this producer's")] = None,
    reason: Annotated[Reason | None, Query(description="only samples held for this reason")] = None,
    batch: Annotated[str | None, Query(description="only this batch's")] = None,
    label: Annotated[int | None, Query(ge=0, le=_LARGEST, description="only samples that came with this label")] = None,
    limit: Annotated[int | None, Query(description="samples on a page")] = None,
    cursor: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Page[HeldView]:
    """Quarantined samples in the order they were held, without their data."""
    limits = service.limits
    size = limits.page_size if limit is None else limit
    if not 1 <= size <= limits.max_page_size:
        raise InvalidInput("limit", size, f"1 to {limits.max_page_size}")
    where = HeldFilter(state, producer, reason, batch, label)
    held, following = service.stores.quarantine.page(where, cursor, size)
    return Page[HeldView](items=[HeldView.of(sample) for sample in held], next=following)


@router.get("/{id}", dependencies=[Depends(INSPECT)], responses=responses(404))
def read_held(id: str, service: App) -> HeldDetail:
    """One quarantined sample with its data."""
    held = service.stores.quarantine.get(id)
    x = codec.load(held.payload).x[0]
    return HeldDetail.of(held, dtype=str(x.dtype).removeprefix("torch."), x=x.tolist())


@router.post(
    "/{id}/release",
    dependencies=[Depends(REVIEW)],
    openapi_extra=bodies.documented(Release.model_json_schema(), required=False),
    responses={202: {"model": Queued, "description": "Not learned yet"}, **responses(404, 409, 415)},
)
async def release(id: str, request: Request, response: Response, service: App, who: Caller) -> Released | Queued:
    """Let a held sample through, with another label if you like: it skips the guard, not the gate."""
    answer = await bodies.read_json(request, Release, service.limits.body_seconds)
    entry = await run_in_threadpool(_release, service, who, id, answer)
    return await commands.outcome(service, response, entry, lambda result: Released(id=id, **result))


@router.post(
    "/{id}/discard",
    dependencies=[Depends(REVIEW)],
    openapi_extra=bodies.documented(Discard.model_json_schema(), required=False),
    responses=responses(404, 409, 415),
)
async def discard(id: str, request: Request, service: App, who: Caller) -> HeldView:
    """Never learn a held sample. It stays on record."""
    answer = await bodies.read_json(request, Discard, service.limits.body_seconds)
    return await run_in_threadpool(_discard, service, who, id, answer)


def _release(service: Service, who: Identity, id: str, answer: Release) -> Entry:
    if answer.force and not who.has(Role.ADMIN):
        raise Forbidden("force needs the role admin")
    classes = service.published.recipe.inputs.classes
    if answer.label is not None and not 0 <= answer.label < classes:
        raise InvalidInput("label", answer.label, f"a label from 0 to {classes - 1}")
    commands.require_trainer(service)
    quarantine, review = service.stores.quarantine, {"label": answer.label, "force": answer.force}
    expect = (HeldState.HELD, HeldState.RELEASE_VETOED) if answer.force else (HeldState.HELD,)
    before = quarantine.get(id).state
    quarantine.move(
        id,
        HeldState.RELEASING,
        expect=expect,
        by=who.name,
        at=service.clock(),
        relabel=answer.label,
        note=answer.note,
    )
    try:
        return commands.append(service, who, EntryKind.RELEASE, {"id": id, **review}, target=id)
    except Exception:
        quarantine.move(id, before, expect=(HeldState.RELEASING,))
        raise


def _discard(service: Service, who: Identity, id: str, answer: Discard) -> HeldView:
    expect = (HeldState.HELD, HeldState.RELEASE_VETOED)
    held = service.stores.quarantine.move(
        id, HeldState.DISCARDED, expect=expect, by=who.name, at=service.clock(), note=answer.note
    )
    commands.audit(service, who, "discard", id, note=answer.note)
    return HeldView.of(held)
