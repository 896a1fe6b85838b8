"""Batches: what producers send, and what became of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request, Response
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from weir import codec
from weir.api import bodies
from weir.api.appender import Receipt
from weir.api.auth import FOLLOW, INSPECT, SEND, Caller, DirectRoute, GuardedRoute, Identity
from weir.api.commands import decided
from weir.api.problems import invalid, responses
from weir.api.schemas.batches import Accepted, BatchState, BatchView, Counts, SampleView
from weir.api.service import App, Service, durability_name
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
from weir.stores.base import Entry, EntryKind, IdempotencyKey, JournalledSample, NewEntry
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
PARAMETERS = [
    {
        "name": "wait",
        "in": "query",
        "schema": {"type": "number", "default": 0.0},
        "description": "seconds to wait for the verdicts, 0 to 60",
    },
    {
        "name": "idempotency-key",
        "in": "header",
        "schema": {"type": "string"},
        "description": "your name for this request: sent again, it is answered again, not taken again",
    },
]
_LONGEST_KEY = 255
_SECONDS = TypeAdapter(float)


def _outcome(error: Exception) -> Outcome:
    match error:
        case InvalidInput(code="key_reused"):
            return Outcome.CONFLICT
        case InvalidInput() | TooLarge() | UnsupportedType() | HTTPException():
            return Outcome.INVALID
        case Unauthenticated() | Forbidden():
            return Outcome.DENIED
        case QuotaExceeded():
            return Outcome.OVER_QUOTA
        case LogFull() | NotReady():
            return Outcome.BUSY
        case _:
            return Outcome.FAILED


async def send_batch(request: Request) -> Response:
    """Take a batch: 202 once it is durably in the log, or 200 with its verdicts if they fall within `wait`.

    The body is JSON (simple) or safetensors (fast): `x` uint8, float16 or float32, `y` int64, and in the metadata
    `ids`, a JSON list. uint8 stands for value / 255.
    """
    service: Service = request.app.state.service
    try:
        response = await _take(request, service)
    except Exception as error:
        service.metrics.delivered(_outcome(error))
        raise
    service.metrics.delivered(Outcome.TAKEN)
    return response


router.add_api_route(
    "",
    send_batch,
    methods=["POST"],
    route_class_override=DirectRoute,
    status_code=202,
    response_model=Accepted | BatchView,
    dependencies=[Depends(SEND)],
    openapi_extra=bodies.documented(BODY, binary=True) | {"parameters": PARAMETERS},
    responses={200: {"model": BatchView, "description": "Decided within `wait`"}, **responses(408, 413, 415, 429, 507)},
)


@router.get("/{id}", dependencies=[Depends(FOLLOW)], responses=responses(404))
def read_batch(id: str, service: App, who: Caller) -> BatchView:
    """A batch: its state and counts; with the role reader or reviewer also its verdicts. Producers see their own."""
    entry = service.stores.log.get(id)
    if entry.kind is not EntryKind.BATCH:
        raise NotFound("batch", id)
    if entry.producer != who.name and not who.has(*INSPECT.roles):
        raise Forbidden("a producer sees its own batches only")
    return _view(service, entry, who)


async def _take(request: Request, service: Service) -> Response:
    """The answer to a delivery that was taken."""
    limits = service.limits
    who = await SEND.caller(request)
    wait = _wait(request, limits.max_wait_seconds)
    body = await bodies.read(request, limits.max_body_bytes, limits.body_seconds)
    await service.admission.check(who.name)
    entry, new, durability = await _appended(service, await _delivery(request, service, who, body))
    headers = {"Location": f"{router.prefix}/{entry.id}"} | ({} if new else {"Idempotency-Replayed": "true"})
    if wait:
        await decided(service, entry, wait)
        view = await run_in_threadpool(_view, service, entry, who)
        if not view.counts.pending:
            return Response(view.model_dump_json(), 200, headers, codec.JSON)
    accepted = Accepted(id=entry.id, samples=entry.samples, durability=durability_name(durability))
    return Response(accepted.model_dump_json(), 202, headers, codec.JSON)


def _wait(request: Request, most: float) -> float:
    """How many seconds the caller wants to wait for verdicts; raises InvalidInput."""
    try:
        wait = _SECONDS.validate_python(request.query_params.get("wait", 0.0))
    except ValidationError as error:
        raise invalid(error.errors()[0] | {"loc": ("wait",)}) from None
    if not 0 <= wait <= most:
        raise InvalidInput("wait", wait, f"seconds from 0 to {most:g}")
    return wait


async def _delivery(request: Request, service: Service, who: Identity, body: bytes) -> NewEntry:
    """What a body becomes in the log, validated; raises InvalidInput."""
    content_type, key = request.headers.get("content-type", ""), request.headers.get("idempotency-key")
    if bodies.is_quick(content_type, body):
        return _validated(service, who, content_type, key, body)
    return await run_in_threadpool(_validated, service, who, content_type, key, body)


def _validated(service: Service, who: Identity, content_type: str, key: str | None, body: bytes) -> NewEntry:
    spec = service.published.recipe.inputs
    batch = codec.decode(content_type, body, spec, max_samples=service.limits.max_samples)
    named = None if key is None else IdempotencyKey(_checked(key), hashlib.sha256(body).hexdigest())
    return NewEntry(EntryKind.BATCH, who.name, codec.encode(batch, source=body), len(batch), named)


async def _appended(service: Service, new: NewEntry) -> Receipt:
    try:
        return await service.appender.append(new)
    except Conflict:
        key = repr(new.key.key if new.key else None)
        raise InvalidInput("Idempotency-Key", key, "a new key for a new body", code="key_reused") from None


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
