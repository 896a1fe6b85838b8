"""The application: the routes over stores and learner, and nothing that decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

import weir
from weir.api import (
    batches,
    checkpoints,
    commands,
    dead_letters,
    erasure,
    mode,
    model,
    operations,
    predict,
    probe,
    problems,
    producers,
    quarantine,
    replay,
    review,
)
from weir.api.access import Access
from weir.api.auth import Keyring
from weir.api.service import Learner, Limits, Replays, Service
from weir.metrics import DoorMetrics
from weir.stores.base import Shared
from weir.types import Batch, ServiceRole

RESOURCES = (
    *(batches, predict, quarantine, review, dead_letters, model, checkpoints, replay),
    *(probe, producers, mode, erasure, commands, operations),
)
OF_THE_LEARNER = (replay, commands, operations)  # what needs its disk, and what looks after it
_ABOUT = """An online-learning service that guards what it learns from.

Producers send batches of labelled samples; the guard accepts, corrects or quarantines each sample before the model
learns from it; people review the quarantine. Times are Unix seconds, losses and discrepancies are in nats, and null
means "not there yet", never zero. Failures are `application/problem+json` with a stable `code`; 429, 503 and 507 come
with `Retry-After` and are worth another try, for a batch under the same `Idempotency-Key`.

What people ask of the learner (release, rollback, replay, erase ...) is a command in the log, audited, and carried out
at its turn: 202 when that takes longer than a request may. What answers or erases many is a dry run unless told.

Without any API key the service listens on this machine only, grants every role, and takes the producer from the
header `X-Weir-Producer`."""


class _Application(FastAPI):
    """FastAPI, whose own way to document a failure would call it ``application/json``."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        schema["components"]["schemas"]["Problem"] = problems.Problem.model_json_schema()
        return schema


def create_app(
    *,
    stores: Shared,
    learner: Learner,
    replays: Replays,
    metrics: DoorMetrics,
    check_probe: Callable[[Batch], None],
    limits: Limits,
    keyed: bool,
    clock: Callable[[], float],
    role: ServiceRole = "all",
) -> FastAPI:
    """The ASGI application.

    ``check_probe`` raises InvalidProbe for a batch that cannot calibrate the guard; ``keyed`` is whether
    requests need a key (they do in any case once one exists); ``clock`` gives Unix seconds; a learner has only the
    routes that no replica can serve.
    """
    app = _Application(
        title="Weir",
        description=_ABOUT,
        version=weir.__version__,
        redirect_slashes=False,
        redoc_url=None,
        responses=problems.responses(401, 403, 422, 500, 503),
    )
    app.state.service = Service(
        stores=stores,
        learner=learner,
        replays=replays,
        limits=limits,
        clock=clock,
        metrics=metrics,
        check_probe=check_probe,
        role=role,
    )
    app.state.keyring = Keyring(stores.keys, keyed=keyed)
    for resource in OF_THE_LEARNER if role == "learner" else RESOURCES:
        app.include_router(resource.router)
    problems.install(app)
    app.add_middleware(Access)
    return app
