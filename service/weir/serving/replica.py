"""A process that answers and does not learn: stateless, over Redis, with the model that the learner published."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from fastapi import FastAPI

from weir import folder
from weir.config import Settings
from weir.errors import Elsewhere
from weir.metrics import DoorMetrics, ModelLevels
from weir.serving import door
from weir.serving.application import application
from weir.serving.subscriber import Subscriber
from weir.stores.base import Shared
from weir.types import ReplayOrder, ReplayReport

logger = logging.getLogger("weir.serving")


@dataclass(frozen=True, slots=True)
class Replica:
    """What follows the learner, the application over it, and the stores that all replicas share."""

    app: FastAPI
    subscriber: Subscriber
    stores: Shared
    metrics: DoorMetrics


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was asked: nothing of this process needs to be saved.

    Raises Conflict when the port is in use, InvalidSetting for a host that must not be served, StorageFailed when
    Redis does not answer at the start. Call it on the main thread.
    """
    with (
        door.listening(settings.host, settings.port) as listener,
        running(settings) as replica,
        door.outlived_signals(),
    ):
        logger.info("role api: takes batches and predicts with what the learner publishes; learns nothing itself")
        door.introduce(replica.stores, listener)
        door.answer(replica.app, listener)
        logger.info("no more requests; stopped")


@contextmanager
def running(settings: Settings) -> Iterator[Replica]:
    """Everything but the server: an application that is ready as soon as there is a published model."""
    with folder.shared(settings) as (stores, publications):
        keyed = door.check_exposure(settings, stores.keys)
        torch.set_num_threads(settings.threads)
        subscriber, metrics = Subscriber(publications, device=settings.engine().device), DoorMetrics()
        metrics.watch_model(lambda: _levels(subscriber))
        app = application(
            settings,
            stores=stores,
            learner=subscriber,
            replays=_Elsewhere(subscriber),
            metrics=metrics,
            keyed=keyed,
        )
        with subscriber:
            yield Replica(app, subscriber, stores, metrics)


def _levels(subscriber: Subscriber) -> ModelLevels:
    staleness, publication = subscriber.staleness, subscriber.publication
    return ModelLevels(None if publication is None else publication.step, staleness)


class _Elsewhere:
    """Replays as a replica sees them: they run beside the learner, over its checkpoints."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber

    def start(self, order: ReplayOrder, by: str) -> ReplayReport:
        """See ``Replays.start``; raises Elsewhere, as all of these do."""
        self._refuse()

    def get(self, id: str) -> ReplayReport:
        """See ``Replays.get``."""
        self._refuse()

    def all(self) -> list[ReplayReport]:
        """See ``Replays.all``."""
        self._refuse()

    def cancel(self, id: str) -> ReplayReport:
        """See ``Replays.cancel``."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        address = self._subscriber.learner_address
        raise Elsewhere(f"replays run beside the learner, and this is a replica: ask {address or 'the learner'}")
