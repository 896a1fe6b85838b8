"""Batches: what producers send, and what became of it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from weir import codec
from weir.api import bodies
from weir.api.auth import FOLLOW, INSPECT, SEND, Caller, GuardedRoute, Identity
from weir.api.commands import decided
from weir.api.problems import responses
from weir.api.schemas.batches import Accepted, BatchState, BatchView, Counts, SampleView
from weir.api.service import App, Service
from weir.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LogFull,
    NotFound,
    NotReady,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    UnsupportedType,
)
from weir.metrics import Outcome
from weir.stores.base import Entry, EntryKind, IdempotencyKey, JournalledSample
from weir.types import Reason, Verdict

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=GuardedRoute)

BODY = {
    "type": "object",
    "required": ["x", "y"],
    "properties": {
        "x": {"type": "array", "items": {}, "description": "n samples, each nested as the model's input or flat"},
        "y": {"type": "array", "items": {"type": "integer"}, "description": "n labels"},
        "ids": {"type": "array", "items": {"type": "string"}, "description": "n ids of your own, unique in the batch"},
    },
}
_LONGEST_KEY = 255


async def _counted(service: App) -> AsyncIterator[None]:
    """Count a delivery by how it ends, whatever ends it."""
    try:
        yield
    except Exception as error:
        service.metrics.delivered(_outcome(error))
        raise
    service.metrics.delivered(Outcome.TAKEN)


def _outcome(error: Exception) -> Outcome:
    match error:
        case InvalidInput(code="key_reused"):
            return Outcome.CONFLICT
        case InvalidInput() | TooLarge() | UnsupportedType() | RequestValidationError() | HTTPException():
            return Outcome.INVALID
        case Unauthenticated() | Forbidden():
            return Outcome.DENIED
        case QuotaExceeded():
            return Outcome.OVER_QUOTA
        case LogFull() | NotReady():
            return Outcome.BUSY
        case _:
            return Outcome.FAILED


@router.post(
    "",
    status_code=202,
    dependencies=[Depends(_counted, scope="function")],
    openapi_extra=bodies.documented(BODY, binary=True),
    responses={200: {"model": BatchView, "description": "Decided within `wait`"}, **responses(408, 413, 415, 429, 507)},
)
async def send_batch(
    request: Request,
    response: Response,
    service: App,
    who: Annotated[Identity, Depends(SEND)],
    wait: Annotated[float, Query(description="seconds to wait for the verdicts, 0 to 60")] = 0.0,
    idempotency_key: Annotated[
        str | None, Header(description="your name for this request: sent again, it is answered again, not taken again")
    ] = None,
) -> Accepted | BatchView:
    """Take a batch: 202 once it is durably in the log, or 200 with its verdicts if they fall within `wait`.

    The body is JSON (simple) or safetensors (fast): `x` uint8, float16 or float32, `y` int64, and in the metadata
    `ids`, a JSON list. uint8 stands for value / 255.
    """
    limits = service.limits
    if not 0 <= wait <= limits.max_wait_seconds:
        raise InvalidInput("wait", wait, f"seconds from 0 to {limits.max_wait_seconds:g}")
    body = await bodies.read(request, limits.max_body_bytes, limits.body_seconds)
    content_type = request.headers.get("content-type", "")
    entry, new, accepted = await run_in_threadpool(_append, service, who, content_type, body, idempotency_key)
    response.headers["Location"] = f"{router.prefix}/{entry.id}"
    if not new:
        response.headers["Idempotency-Replayed"] = "true"
    if wait:
        await decided(service, entry, wait)
        view = await run_in_threadpool(_view, service, entry, who)
        if not view.counts.pending:
            response.status_code = 200
            return view
    return accepted


@router.get("/{id}", dependencies=[Depends(FOLLOW)], responses=responses(404))
def read_batch(id: str, service: App, who: Caller) -> BatchView:
    """A batch: its state and counts; with the role reader or reviewer also its verdicts. Producers see their own."""
    entry = service.stores.log.get(id)
    if entry.kind is not EntryKind.BATCH:
        raise NotFound("batch", id)
    if entry.producer != who.name and not who.has(*INSPECT.roles):
        raise Forbidden("a producer sees its own batches only")
    return _view(service, entry, who)


def _append(
    service: Service, who: Identity, content_type: str, body: bytes, key: str | None
) -> tuple[Entry, bool, Accepted]:
    """The log entry of a delivery, whether it is new, and the acknowledgement."""
    service.admission.check(who.name)
    spec = service.published.recipe.inputs
    batch = codec.decode(content_type, body, spec, max_samples=service.limits.max_samples)
    named = None if key is None else IdempotencyKey(_checked(key), hashlib.sha256(body).hexdigest())
    payload = codec.encode(batch)
    try:
        entry, new = service.stores.log.append(EntryKind.BATCH, who.name, payload, samples=len(batch), key=named)
    except Conflict:
        raise InvalidInput("Idempotency-Key", repr(key), "a new key for a new body", code="key_reused") from None
    return entry, new, Accepted(id=entry.id, samples=entry.samples, durability=service.durability())


def _checked(key: str) -> str:
    if not (key.isascii() and key.isprintable() and 1 <= len(key) <= _LONGEST_KEY):
        raise InvalidInput("Idempotency-Key", repr(key[:80]), f"1 to {_LONGEST_KEY} printable ASCII characters")
    return key


def _view(service: Service, entry: Entry, who: Identity) -> BatchView:
    lines = service.stores.journal.samples(entry.id)
    told = who.has(*INSPECT.roles)
    return BatchView(
        id=entry.id,
        state=_state(lines, entry.samples),
        producer=entry.producer,
        samples=entry.samples,
        counts=_counts(lines, entry.samples),
        step=max((line.step for line in lines), default=None) if told else None,
        verdicts=_verdicts(service, entry, lines) if told else None,
    )


def _state(lines: Sequence[JournalledSample], samples: int) -> BatchState:
    states = {_sample_state(line) for line in lines}
    if BatchState.DEAD in states:
        return BatchState.DEAD
    if len(lines) < samples:
        states.add(BatchState.QUEUED)
    return states.pop() if len(states) == 1 else BatchState.PARTIAL


def _sample_state(line: JournalledSample) -> BatchState:
    if line.verdict.reason is Reason.ERROR:
        return BatchState.DEAD
    if line.verdict.verdict is Verdict.QUARANTINE:
        return BatchState.VETOED if line.verdict.reason is Reason.VETO else BatchState.HELD
    return BatchState.ROLLED_BACK if line.rolled_back else BatchState.LEARNED


def _counts(lines: Sequence[JournalledSample], samples: int) -> Counts:
    counts = {verdict: sum(line.verdict.verdict is verdict for line in lines) for verdict in Verdict}
    return Counts(**counts, pending=samples - len(lines))


def _verdicts(service: Service, entry: Entry, lines: Sequence[JournalledSample]) -> list[SampleView]:
    ids = _ids(service, entry)
    return [SampleView.of(line, ids.get(line.index)) for line in lines]


def _ids(service: Service, entry: Entry) -> dict[int, str]:
    """The producer's ids by index, without those of erased samples.

    The entry that a repeated key gives has no payload to read them from, and the log may have it no more.
    """
    try:
        payload = entry.payload or service.stores.log.get(entry.id).payload
    except NotFound:
        return {}
    batch, kept = codec.load_kept(payload)
    return dict(zip(kept, batch.ids or (), strict=False))
