"""The model: where it stands, and its weights."""

from __future__ import annotations

import json

from fastapi import APIRouter, Depends, Response

from weir import codec
from weir.api.auth import READ, GuardedRoute
from weir.api.predict import STEP_HEADER
from weir.api.schemas.model import ModelView
from weir.api.service import App

router = APIRouter(prefix="/v1/model", tags=["model"], route_class=GuardedRoute)


@router.get("", dependencies=[Depends(READ)])
def read_model(service: App) -> ModelView:
    """Where the learner stands: steps, guard, accuracies, and how the model was built."""
    return ModelView.of(service.learner.status, service.learner.publication)


@router.get(
    "/weights",
    dependencies=[Depends(READ)],
    response_class=Response,
    responses={200: {"content": {codec.SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}}},
)
def read_weights(service: App) -> Response:
    """The published weights as safetensors; the metadata has the `step`, and the `recipe` as JSON."""
    publication = service.published
    metadata = {"step": str(publication.step), "recipe": json.dumps(publication.recipe.to_values())}
    content = codec.encode_tensors(publication.weights, metadata)
    return Response(content, headers={STEP_HEADER: metadata["step"]}, media_type=codec.SAFETENSORS)
