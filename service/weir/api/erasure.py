"""Erasing data for good: from the log, the quarantine and the dead letters. Weights stay as they are.

The learner erases, at the command's turn in the log, so that nothing is read while it is rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from weir import codec
from weir.api import bodies, commands
from weir.api.auth import ADMINISTER, Caller, GuardedRoute
from weir.api.problems import responses
from weir.api.schemas.common import Queued
from weir.api.schemas.erasure import Erase, Erasure
from weir.api.service import App, Service
from weir.errors import InvalidInput, NotFound
from weir.stores.base import DeadLetter, Entry, EntryKind, Held, HeldFilter, Stores

router = APIRouter(prefix="/v1/erase", tags=["erasure"], route_class=GuardedRoute)

_SAMPLE = re.compile(r".+:[0-9]{1,9}", re.ASCII)
_LINES = 500
_ENTRIES = 8  # a page of the log carries its payloads, and one may be as large as a body


@router.post(
    "",
    dependencies=[Depends(ADMINISTER)],
    openapi_extra=bodies.documented(Erase.model_json_schema()),
    responses={202: {"model": Queued, "description": "Not erased yet"}, **responses(415)},
)
async def erase(request: Request, response: Response, service: App, who: Caller) -> Erasure | Queued:
    """Erase what a producer, a batch or a sample left; unless told otherwise, only say how much that is.

    To take it out of the weights too, replay from a checkpoint that had not learned it.
    """
    order = await bodies.read_json(request, Erase, service.limits.body_seconds)
    target = order.target
    ((kind, name),) = target.items()
    _check(kind, name)
    if order.dry_run:
        return await run_in_threadpool(_matching, service, kind, name)
    label = f"{kind} {name}"
    entry = await run_in_threadpool(commands.append, service, who, EntryKind.ERASE, target, target=label)
    return await commands.outcome(service, response, entry, _erased)


def _erased(result: Mapping[str, Any]) -> Erasure:
    return Erasure(dry_run=False, **result)


def _check(kind: str, name: str) -> None:
    if not name:
        raise InvalidInput(kind, repr(name), f"the name of a {kind}")
    if kind == "sample" and not _SAMPLE.fullmatch(name):
        raise InvalidInput(kind, repr(name), "{batch}:{index}")


def _matching(service: Service, kind: str, name: str) -> Erasure:
    stores, batch, index = service.stores, name, None
    if kind == "sample":
        batch, _, digits = name.rpartition(":")
        index = int(digits)
    by_producer = kind == "producer"
    entries = _of_producer(stores, name) if by_producer else _of_batch(stores, batch)
    samples = [count for entry in entries if (count := _kept(entry, index))]
    where = HeldFilter(producer=name) if by_producer else HeldFilter(batch=batch)
    return Erasure(
        dry_run=True,
        entries=len(samples),
        samples=sum(samples),
        quarantine=sum(index in (None, held.index) for held in _held(stores, where)),
        dead_letters=sum((letter.producer if by_producer else letter.batch) == batch for letter in _letters(stores)),
        checkpoints=None,
    )


def _kept(entry: Entry, index: int | None) -> int:
    """How many samples of a batch are still there, or of those only the one with this index."""
    return sum(index in (None, kept) for kept in codec.load_kept(entry.payload)[1])


def _of_producer(stores: Stores, producer: str) -> Iterator[Entry]:
    position = stores.log.floor()
    while page := stores.log.read(position, _ENTRIES):
        yield from (entry for entry in page if entry.kind is EntryKind.BATCH and entry.producer == producer)
        position = page[-1].position


def _of_batch(stores: Stores, id: str) -> Iterator[Entry]:
    """The batch, if the log still has it."""
    with suppress(NotFound):
        entry = stores.log.get(id)
        if entry.kind is EntryKind.BATCH:
            yield entry


def _held(stores: Stores, where: HeldFilter) -> Iterator[Held]:
    cursor: str | None = None
    while True:
        held, cursor = stores.quarantine.page(where, cursor, _LINES)
        yield from held
        if cursor is None:
            return


def _letters(stores: Stores) -> Iterator[DeadLetter]:
    cursor: str | None = None
    while True:
        letters, cursor = stores.dead_letters.page(cursor, _LINES)
        yield from letters
        if cursor is None:
            return
