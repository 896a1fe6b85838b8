"""Dead letters: what could not be processed, to look at, to send anew or to drop."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from weir import codec
from weir.api import commands
from weir.api.auth import INSPECT, REVIEW, Caller, GuardedRoute
from weir.api.problems import responses
from weir.api.schemas.common import Page
from weir.api.schemas.dead_letters import DeadLetterDetail, DeadLetterView, Retried
from weir.api.service import App
from weir.errors import Conflict, NotFound
from weir.stores.base import DeadLetter, EntryKind, IdempotencyKey

router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"], route_class=GuardedRoute)


@router.get("", dependencies=[Depends(INSPECT)])
def list_letters(
    service: App,
    limit: Annotated[int | None, Query(description="letters on a page")] = None,
    cursor: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Page[DeadLetterView]:
    """Dead letters in the order they came, without their samples."""
    letters, following = service.stores.dead_letters.page(cursor, service.limits.page(limit))
    return Page[DeadLetterView](items=[DeadLetterView.of(letter) for letter in letters], next=following)


@router.get("/{id}", dependencies=[Depends(INSPECT)], responses=responses(404))
def read_letter(id: str, service: App) -> DeadLetterDetail:
    """One dead letter: what was raised, and the shape, type and labels of its samples."""
    letter = service.stores.dead_letters.get(id)
    batch = codec.load(letter.payload)
    return DeadLetterDetail.of(
        letter,
        shape=list(batch.x.shape),
        dtype=str(batch.x.dtype).removeprefix("torch."),
        labels=batch.y.tolist(),
        sample_ids=batch.ids,
    )


@router.post("/{id}/retry", status_code=202, dependencies=[Depends(REVIEW)], responses=responses(404, 409, 429, 507))
def retry(id: str, response: Response, service: App, who: Caller) -> Retried:
    """Send a dead letter anew, once, as a batch of the same producer; the guard judges it like any other."""
    letters = service.stores.dead_letters
    letter = letters.get(id)
    if letter.retried_as is not None:
        raise Conflict(f"dead letter {id!r} was sent anew as {letter.retried_as}: look at that batch")
    commands.require_trainer(service)
    key = IdempotencyKey(f"retry:{id}", hashlib.sha256(letter.payload).hexdigest())
    entry, _ = service.stores.log.append(
        EntryKind.BATCH, letter.producer, letter.payload, samples=letter.samples, key=key
    )
    commands.audit(service, who, "retry", id, batch=entry.id)
    letters.retried(id, entry.id)  # last: what broke off before is done again, and sent once all the same
    response.headers["Location"] = f"/v1/batches/{entry.id}"
    return Retried(id=id, batch=entry.id, samples=letter.samples)


@router.delete("/{id}", status_code=204, dependencies=[Depends(REVIEW)], responses=responses(404))
def drop(id: str, service: App, who: Caller) -> None:
    """Delete a dead letter and its samples for good."""
    letter: DeadLetter = service.stores.dead_letters.get(id)
    commands.audit(service, who, "drop", id, producer=letter.producer, samples=letter.samples)
    if not service.stores.dead_letters.drop([id]):
        raise NotFound("dead letter", id)
