"""Operations: metrics, and whether the service lives and does its work."""

from __future__ import annotations

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Response

from weir.api.auth import READ, GuardedRoute
from weir.api.schemas.operations import Liveness, Readiness
from weir.api.service import App, Service
from weir.stores.base import Durability

router = APIRouter(tags=["operations"], route_class=GuardedRoute)

_LOG_SECONDS = 2.0
_SILENT = Durability(("the log does not answer",))


@router.get("/metrics", dependencies=[Depends(READ)], response_class=Response)
def metrics(service: App) -> Response:
    """Prometheus metrics; they show thresholds, so once keys exist the scraper needs one too."""
    content, content_type = service.metrics.render()
    return Response(content, media_type=content_type)


@router.get("/health/live")
async def live() -> Liveness:
    """Whether the process answers; open to all."""
    return Liveness()


@router.get("/health/ready", responses={503: {"model": Readiness, "description": "Not ready"}})
async def ready(response: Response, service: App) -> Readiness:
    """Whether there is a model, a trainer and a log that answers, and whether the guard is armed; open to all.

    A replica goes on without its learner: it is ready with a model and a log, and says how stale the model is.
    """
    status, (letters, durability) = service.learner.status, await _asked(service)
    relaxed = durability.relaxed_because
    checks = {
        "no model is published yet": service.learner.publication is not None,
        "the log does not answer": letters is not None,
    }
    if service.role != "api":
        checks["the trainer has stopped"] = status.alive
        checks[f"the learner waits: {status.waits_for}"] = status.waits_for is None
    because = [why for why, well in checks.items() if not well]
    if because:
        response.status_code = 503
    return Readiness(
        ready=not because,
        because=because,
        armed=status.armed,
        unarmed_because=status.unarmed_because,
        breaker_open=status.breaker_open,
        waits_for=status.waits_for,
        learner_alive=status.alive,
        staleness_seconds=service.learner.staleness,
        durability="relaxed" if relaxed else "durable",
        durability_because=list(relaxed),
        dead_letters=letters,
    )


async def _asked(service: Service) -> tuple[int | None, Durability]:
    """How many dead letters wait, and what a 202 is worth; None and nothing when the log does not answer."""

    def ask() -> tuple[int, Durability]:
        service.stores.log.tail()
        return service.stores.dead_letters.waiting(), service.stores.durability()

    with anyio.move_on_after(_LOG_SECONDS):
        try:
            return await run_sync(ask, abandon_on_cancel=True)
        except Exception:  # whatever the store's driver raises means the same here
            return None, _SILENT
    return None, _SILENT
