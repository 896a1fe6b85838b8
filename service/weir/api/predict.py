"""Predictions from the published model: they never wait for learning."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response

from weir import codec
from weir.api import bodies
from weir.api.auth import READ, GuardedRoute
from weir.api.problems import responses
from weir.api.schemas.model import Prediction
from weir.api.service import App, Service
from weir.types import Publication

STEP_HEADER = "X-Weir-Model-Step"
STALENESS_HEADER = "X-Weir-Staleness-Seconds"

router = APIRouter(prefix="/v1/predict", tags=["model"], route_class=GuardedRoute)

_BODY = {
    "type": "object",
    "required": ["x"],
    "properties": {"x": {"type": "array", "items": {}, "description": "n samples, as in a batch"}},
}


@router.post(
    "",
    response_model=Prediction,
    dependencies=[Depends(READ)],
    openapi_extra=bodies.documented(_BODY, binary=True),
    responses=responses(408, 413, 415),
)
async def predict(request: Request, service: App) -> Response:
    """Classes, probabilities and logits, with the step of the model that made them, and how stale that model is.

    Producers may not ask: what the model says of a sample helps to craft a poisonous one.
    """
    body = await bodies.read(request, service.limits.max_body_bytes, service.limits.body_seconds)
    staleness = round(service.learner.staleness or 0.0, 3)  # first: a newer model may be less stale, never more
    publication, content_type = service.published, request.headers.get("content-type", "")
    content = await run_sync(_predict, service, publication, staleness, content_type, body, limiter=service.predictors)
    headers = {STEP_HEADER: str(publication.step), STALENESS_HEADER: f"{staleness:.3f}"}
    return Response(content, headers=headers, media_type=codec.JSON)


def _predict(service: Service, publication: Publication, staleness: float, content_type: str, body: bytes) -> str:
    spec = publication.recipe.inputs
    logits = publication.predict(codec.decode_x(content_type, body, spec, max_samples=service.limits.max_samples))
    return Prediction(
        step=publication.step,
        staleness_seconds=staleness,
        classes=logits.argmax(1).tolist(),
        probabilities=logits.softmax(1).tolist(),
        logits=logits.tolist(),
    ).model_dump_json()
