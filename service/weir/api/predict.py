"""Predictions from the published model: they never wait for learning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from torch import Tensor

from weir import codec
from weir.api import bodies
from weir.api.auth import READ, DirectRoute, GuardedRoute
from weir.api.pace import Pace
from weir.api.problems import responses
from weir.api.schemas.model import Prediction
from weir.api.service import Service
from weir.types import Publication

STEP_HEADER = "X-Weir-Model-Step"
STALENESS_HEADER = "X-Weir-Staleness-Seconds"

_T = TypeVar("_T")

router = APIRouter(prefix="/v1/predict", tags=["model"], route_class=GuardedRoute)

_BODY = {
    "type": "object",
    "required": ["x"],
    "properties": {"x": {"type": "array", "items": {}, "description": "n samples, as in a batch"}},
}


async def predict(request: Request) -> Response:
    """Classes, probabilities and logits, with the step of the model that made them, and how stale that model is.

    Producers may not ask: what the model says of a sample helps to craft a poisonous one.
    """
    service: Service = request.app.state.service
    limits, content_type = service.limits, request.headers.get("content-type", "")
    await READ.caller(request)
    body = await bodies.read(request, limits.max_body_bytes, limits.body_seconds)
    staleness = round(service.learner.staleness or 0.0, 3)  # first: a newer model may be less stale, never more
    publication = service.published
    spec = publication.recipe.inputs
    decode = partial(codec.decode_x, content_type, body, spec, max_samples=limits.max_samples)
    x = await _done(decode, service, quick=bodies.is_quick(content_type, body))
    answer = partial(_answer, service.pace, publication, staleness, x)
    content = await _done(answer, service, quick=service.pace.is_quick(len(x)))
    headers = {STEP_HEADER: str(publication.step), STALENESS_HEADER: f"{staleness:.3f}"}
    return Response(content, headers=headers, media_type=codec.JSON)


router.add_api_route(
    "",
    predict,
    methods=["POST"],
    route_class_override=DirectRoute,
    response_model=Prediction,
    dependencies=[Depends(READ)],
    openapi_extra=bodies.documented(_BODY, binary=True),
    responses=responses(408, 413, 415),
)


async def _done(job: Callable[[], _T], service: Service, *, quick: bool) -> _T:
    """The result of a job that is either quick or given a thread."""
    return job() if quick else await run_sync(job, limiter=service.predictors)


def _answer(pace: Pace, publication: Publication, staleness: float, x: Tensor) -> str:
    with pace.measured(len(x)):
        logits = publication.predict(x)
        return Prediction(
            step=publication.step,
            staleness_seconds=staleness,
            classes=logits.argmax(1).tolist(),
            probabilities=logits.softmax(1).tolist(),
            logits=logits.tolist(),
        ).model_dump_json()
