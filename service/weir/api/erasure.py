"""Erasing data for good: from the log, the quarantine and the dead letters. Weights stay as they are.

The learner erases, at the command's turn in the log, so that nothing is read while it is rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from weir.api import bodies, commands
from weir.api.auth import ADMINISTER, Caller, GuardedRoute
from weir.api.problems import responses
from weir.api.schemas.common import Queued
from weir.api.schemas.erasure import Erase, Erasure
from weir.api.service import App, Service
from weir.errors import InvalidInput
from weir.stores.base import EntryKind
from weir.stores.erasure import Target, find

router = APIRouter(prefix="/v1/erase", tags=["erasure"], route_class=GuardedRoute)

_SAMPLE = re.compile(r".+:[0-9]{1,9}", re.ASCII)


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
        return await run_in_threadpool(_matching, service, target)
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


def _matching(service: Service, target: Mapping[str, str]) -> Erasure:
    stores = service.stores
    found = find(stores, Target.of(target), stores.log.tail())
    return Erasure(dry_run=True, **found.to_values(), checkpoints=None)
