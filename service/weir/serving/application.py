"""The application of a process of any role, as its settings want it."""

from __future__ import annotations

import time

from fastapi import FastAPI

from weir.api.app import create_app
from weir.api.service import Learner, Limits, Replays
from weir.config import Settings
from weir.core.probe import ProbeSet
from weir.errors import NotReady
from weir.metrics import DoorMetrics
from weir.stores.base import Shared
from weir.types import Batch


def application(
    settings: Settings, *, stores: Shared, learner: Learner, replays: Replays, metrics: DoorMetrics, keyed: bool
) -> FastAPI:
    """The routes of this process's role over what it has; ``keyed`` is whether requests need a key."""
    guard = settings.engine().guard

    def check_probe(batch: Batch) -> None:
        if learner.publication is None:
            raise NotReady("no model is published yet; try again when /health/ready answers 200")
        ProbeSet(batch.x, batch.y, created_at=0.0, source="check").check(learner.publication.recipe.inputs, guard)

    return create_app(
        stores=stores,
        learner=learner,
        replays=replays,
        metrics=metrics,
        check_probe=check_probe,
        limits=_limits(settings),
        keyed=keyed,
        clock=time.time,
        role=settings.role,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        max_samples=settings.max_samples,
        quarantine_max_samples=settings.quarantine_max_samples,
        quarantine_producer_max=settings.quarantine_producer_max,
    )
