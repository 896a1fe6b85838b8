"""Producers: who sent what, and how it looks together."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from weir.api.auth import INSPECT, GuardedRoute
from weir.api.schemas.common import Page
from weir.api.schemas.model import ProducerView
from weir.api.service import App

router = APIRouter(prefix="/v1/producers", tags=["producers"], route_class=GuardedRoute)


@router.get("", dependencies=[Depends(INSPECT)])
def list_producers(service: App) -> Page[ProducerView]:
    """Per producer: samples seen, held and corrected, and the evidence of its newest samples together."""
    return Page[ProducerView](items=[ProducerView.of(report) for report in service.learner.status.producers])
