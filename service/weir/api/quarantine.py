"""The quarantine: what is held back, to list, to look at and to take away as a file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from weir import codec
from weir.api.auth import INSPECT, GuardedRoute
from weir.api.problems import responses
from weir.api.schemas.common import Page
from weir.api.schemas.quarantine import HeldDetail, HeldView
from weir.api.service import App, Service
from weir.errors import NotFound
from weir.stores.base import Held, HeldFilter, HeldState
from weir.types import Reason

NDJSON = "application/x-ndjson"

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"], route_class=GuardedRoute)

_LARGEST = 2**31 - 1


def _where(
    state: Annotated[HeldState | None, Query(description="only samples in this state")] = None,
    producer: Annotated[str | None, Query(description="only this producer's")] = None,
    reason: Annotated[Reason | None, Query(description="only samples held for this reason")] = None,
    batch: Annotated[str | None, Query(description="only this batch's")] = None,
    label: Annotated[int | None, Query(ge=0, le=_LARGEST, description="only samples that came with this label")] = None,
) -> HeldFilter:
    return HeldFilter(state, producer, reason, batch, label)


Where = Annotated[HeldFilter, Depends(_where)]


@router.get("", dependencies=[Depends(INSPECT)])
def list_held(
    service: App,
    where: Where,
    limit: Annotated[int | None, Query(description="samples on a page")] = None,
    cursor: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Page[HeldView]:
    """Quarantined samples in the order they were held, without their data."""
    held, following = service.stores.quarantine.page(where, cursor, service.limits.page(limit))
    return Page[HeldView](items=[HeldView.of(sample) for sample in held], next=following)


@router.get(
    "/export",
    dependencies=[Depends(INSPECT)],
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {"schema": {"$ref": "#/components/schemas/HeldDetail"}}}}},
)
def export(service: App, where: Where) -> StreamingResponse:
    """All samples that fit, with their data, one JSON object a line, in the order they were held.

    A connection that ends early means that the export is not whole.
    """
    pages = _pages(service, where)
    first = next(pages)  # a store that fails is a problem document only before the answer has begun
    return StreamingResponse(chain([first], pages), media_type=NDJSON)


@router.get("/{id}", dependencies=[Depends(INSPECT)], responses=responses(404))
def read_held(id: str, service: App) -> HeldDetail:
    """One quarantined sample with its data."""
    return _detail(service.stores.quarantine.get(id))


def _pages(service: Service, where: HeldFilter) -> Iterator[str]:
    """Lines of JSON, as many at a time as a page holds: memory never holds more than one."""
    cursor: str | None = None
    while True:
        held, cursor = service.stores.quarantine.page(where, cursor, service.limits.page_size)
        yield "".join(_line(service, sample) for sample in held)
        if cursor is None:
            return


def _line(service: Service, listed: Held) -> str:
    try:
        return f"{_detail(service.stores.quarantine.get(listed.id)).model_dump_json()}\n"
    except NotFound:
        return ""  # deleted since its page was read


def _detail(held: Held) -> HeldDetail:
    x = codec.load(held.payload).x[0]
    return HeldDetail.of(held, dtype=str(x.dtype).removeprefix("torch."), x=x.tolist())
