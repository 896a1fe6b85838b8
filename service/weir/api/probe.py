"""The probe set: its header, and the way to replace it; never its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from weir import codec
from weir.api import bodies, commands
from weir.api.auth import ADMINISTER, READ, Caller, GuardedRoute, Identity
from weir.api.batches import BODY
from weir.api.problems import responses
from weir.api.schemas.common import Queued
from weir.api.schemas.model import ProbeView
from weir.api.service import App, Service
from weir.errors import NotFound
from weir.stores.base import Entry, EntryKind
from weir.types import ProbeInfo

router = APIRouter(prefix="/v1/probe", tags=["probe set"], route_class=GuardedRoute)


@router.get("", dependencies=[Depends(READ)], responses=responses(404))
def read_probe(service: App) -> ProbeView:
    """The probe set's version, age and size per class."""
    status = service.learner.status
    if status.probe is None:
        raise NotFound("probe set", "current")
    return ProbeView.of(status.probe, now=service.clock(), stale=status.probe_stale)


@router.put(
    "",
    dependencies=[Depends(ADMINISTER)],
    openapi_extra=bodies.documented(BODY, binary=True),
    responses={202: {"model": Queued, "description": "Not in use yet"}, **responses(408, 413, 415)},
)
async def replace_probe(request: Request, response: Response, service: App, who: Caller) -> ProbeView | Queued:
    """Replace the probe set by trusted samples that the model was never trained on; the body is that of a batch."""
    limits = service.limits
    body = await bodies.read(request, limits.max_body_bytes, limits.body_seconds)
    content_type = request.headers.get("content-type", "")
    entry = await run_in_threadpool(_append, service, who, content_type, body)

    def view(result: Mapping[str, Any]) -> ProbeView:
        return ProbeView.of(ProbeInfo(**result), now=service.clock(), stale=False)

    return await commands.outcome(service, response, entry, view)


def _append(service: Service, who: Identity, content_type: str, body: bytes) -> Entry:
    spec = service.published.recipe.inputs
    batch = codec.decode(content_type, body, spec, max_samples=service.limits.max_samples)
    service.check_probe(batch)
    return commands.append(service, who, EntryKind.PROBE, codec.encode(batch), target="probe set")
