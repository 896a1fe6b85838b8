"""Review: a person's two answers to what is held back, for one sample or for all that fit a filter.

Only the learner knows, when it comes to a release in the log, whether a sample is still held: what is refused here
before is refused for the caller's convenience.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from weir.api import bodies, commands
from weir.api.auth import REVIEW, Caller, GuardedRoute, Identity
from weir.api.problems import CommandFailed, responses
from weir.api.schemas.common import Queued
from weir.api.schemas.quarantine import Action, Discard, HeldView, Refusal, Release, Released, Review, Reviewed
from weir.api.service import App, Service
from weir.errors import Conflict, Forbidden, InvalidInput, NotFound
from weir.stores.base import Entry, EntryKind, Held, HeldFilter, HeldState, Role

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"], route_class=GuardedRoute)

_UNDECIDED = (HeldState.HELD, HeldState.RELEASE_VETOED)
_WHY_NOT = {
    HeldState.RELEASED: "is released already: nothing is learned twice",
    HeldState.DISCARDED: "is discarded, and what is discarded is never learned",
    HeldState.RELEASE_VETOED: "was released and the gate undid it: an admin may release it with force",
}


@router.post(
    "/bulk",
    dependencies=[Depends(REVIEW)],
    openapi_extra=bodies.documented(Review.model_json_schema()),
    responses={202: {"model": Queued, "description": "Not learned yet"}, **responses(404, 409, 415)},
)
async def review(request: Request, response: Response, service: App, who: Caller) -> Reviewed | Queued:
    """Release or discard all that fit a filter, up to a limit; unless told otherwise, only say which these are.

    What is released is learned as one step, and the gate judges all of it together.
    """
    order = await bodies.read_json(request, Review, service.limits.body_seconds)
    _check(service, who, order)
    held, more = await run_in_threadpool(_found, service, order)
    if order.dry_run or not held:
        return Reviewed.of(order, held, more=more)
    if order.action is Action.DISCARD:
        return await run_in_threadpool(_discard_all, service, who, order, held, more)
    entry = await run_in_threadpool(_append, service, who, [sample.id for sample in held], order)

    def view(result: Mapping[str, Any]) -> Reviewed:
        learned = [sample for sample in held if sample.id in set(result["ids"])]
        told = {name: result[name] for name in ("state", "step", "refused")}
        return Reviewed.of(order, learned, more=more, **told)

    return await commands.outcome(service, response, entry, view)


@router.post(
    "/{id}/release",
    dependencies=[Depends(REVIEW)],
    openapi_extra=bodies.documented(Release.model_json_schema(), required=False),
    responses={202: {"model": Queued, "description": "Not learned yet"}, **responses(404, 409, 415)},
)
async def release(id: str, request: Request, response: Response, service: App, who: Caller) -> Released | Queued:
    """Let a held sample through, with another label if you like: it skips the guard, not the gate."""
    order = await bodies.read_json(request, Release, service.limits.body_seconds)
    entry = await run_in_threadpool(_release, service, who, id, order)
    return await commands.outcome(service, response, entry, lambda result: _released(id, result))


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


def _release(service: Service, who: Identity, id: str, order: Release) -> Entry:
    _check_release(service, who, order)
    commands.require_trainer(service)
    state = service.stores.quarantine.get(id).state
    if state not in _releasable(order):
        raise Conflict(f"sample {id!r} {_WHY_NOT[state]}")
    return _append(service, who, [id], order)


def _released(id: str, result: Mapping[str, Any]) -> Released:
    if id not in result["ids"] and result["refused"]:
        raise CommandFailed(result["refused"][0])
    return Released(id=id, state=result["state"] or HeldState.HELD, step=result["step"])


def _append(service: Service, who: Identity, ids: Sequence[str], order: Release) -> Entry:
    command = {"ids": list(ids), "label": order.label, "force": order.force, "note": order.note}
    return commands.append(service, who, EntryKind.RELEASE, command, target=_target(ids))


def _discard(service: Service, who: Identity, id: str, answer: Discard) -> HeldView:
    held = _moved(service, who, id, answer.note)
    commands.audit(service, who, "discard", id, note=answer.note)
    return HeldView.of(held)


def _discard_all(service: Service, who: Identity, order: Review, held: Sequence[Held], more: bool) -> Reviewed:
    done: list[Held] = []
    refused: list[Refusal] = []
    try:
        for sample in held:
            try:
                done.append(_moved(service, who, sample.id, order.note))
            except (Conflict, NotFound) as error:  # somebody else was faster
                refused.append(Refusal(id=sample.id, code=error.code, detail=str(error)))
    finally:
        if done:
            ids = [sample.id for sample in done]
            commands.audit(service, who, "discard", _target(ids), ids=ids, note=order.note)
    return Reviewed.of(order, done, more=more, state=HeldState.DISCARDED, refused=refused)


def _moved(service: Service, who: Identity, id: str, note: str | None) -> Held:
    move, at = service.stores.quarantine.move, service.clock()
    return move(id, HeldState.DISCARDED, expect=_UNDECIDED, by=who.name, at=at, note=note)


def _found(service: Service, order: Review) -> tuple[list[Held], bool]:
    """The first samples that fit, without their data, and whether there are more."""
    wanted = order.filter
    state = wanted.state or HeldState.HELD
    where = HeldFilter(state, wanted.producer, wanted.reason, wanted.batch, wanted.label)
    held, following = service.stores.quarantine.page(where, None, order.limit)
    return held, following is not None


def _check(service: Service, who: Identity, order: Review) -> None:
    if not 1 <= order.limit <= service.limits.max_page_size:
        raise InvalidInput("limit", order.limit, f"1 to {service.limits.max_page_size}")
    discards = order.action is Action.DISCARD
    allowed = _UNDECIDED if discards else _releasable(order)
    if order.filter.state not in (None, *allowed):
        expected = f"{' or '.join(allowed)} with the action {order.action}"
        raise InvalidInput("filter.state", order.filter.state, expected)
    if not discards:
        return _check_release(service, who, order)
    for name in ("label", "force"):
        if getattr(order, name) not in (None, False):
            raise InvalidInput(name, getattr(order, name), "nothing with the action discard")
    return None


def _check_release(service: Service, who: Identity, order: Release) -> None:
    if order.force and not who.has(Role.ADMIN):
        raise Forbidden("force needs the role admin")
    classes = service.published.recipe.inputs.classes
    if order.label is not None and not 0 <= order.label < classes:
        raise InvalidInput("label", order.label, f"a label from 0 to {classes - 1}")


def _releasable(order: Release) -> tuple[HeldState, ...]:
    return _UNDECIDED if order.force else (HeldState.HELD,)


def _target(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{len(ids)} samples"
