"""The part of a process that learns: its stores, its trainer, and what is told of both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from fastapi import FastAPI

from weir import folder
from weir.config import Settings
from weir.errors import NotReady
from weir.metrics import Levels, Metrics
from weir.redteam import Cocktail
from weir.serving import door
from weir.serving.application import application
from weir.stores.base import Stores
from weir.trainer import NewEngine, Retention, Trainer, TrainerConfig

logger = logging.getLogger("weir.serving")
_ROLES = {
    "all": "all: takes batches, learns and predicts",
    "learner": "learner: learns what replicas take, and publishes to them; answers who looks after it, and replays",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A trainer over its stores, the application over both, and the metrics that follow them."""

    app: FastAPI
    trainer: Trainer
    stores: Stores
    metrics: Metrics


Running = Callable[[Settings], AbstractContextManager[Served]]
"""Everything of a process that learns but the server."""


def serve(settings: Settings, running: Running) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was asked, learn what was taken, and write a checkpoint.

    Raises Conflict when the port or the data folder is in use, InvalidSetting for a host that must not be served,
    NotReady when there is no model or the trainer has failed. Call it on the main thread.
    """
    with door.listening(settings.host, settings.port) as listener, ExitStack() as to_the_end:
        known = settings.model_copy(update={"port": door.port(listener)})  # 0 stood for any free one
        with running(known) as served:
            to_the_end.enter_context(door.outlived_signals())
            if folder.is_example(settings.data):
                logger.warning("THIS MODEL IS AN EXAMPLE, burned in on bundled data: not for anything that matters")
            logger.info("role %s", _ROLES[settings.role])
            _introduce(served)
            door.introduce(served.stores, listener)
            door.answer(served.app, listener)
            logger.info("no more requests; learning what is left, then writing a checkpoint")
        status = served.trainer.status
        if status.failure:
            raise NotReady(f"the trainer failed at step {status.step}: {status.failure}")
        logger.info("stopped at step %d, checkpoint %s", status.step, status.checkpoint)


@contextmanager
def opened(settings: Settings, own_engine: NewEngine | None = None) -> Iterator[Served]:
    """The data folder and the log as this process's own, and a trainer that is not started yet.

    ``own_engine`` makes the engine that learns, where others share its work.
    """
    with folder.owned(settings.data), folder.stores(settings) as stores, stores.owned():
        keyed = door.check_exposure(settings, stores.keys)
        engine = settings.engine()
        torch.set_num_threads(settings.threads)
        metrics = Metrics(sample_rate=engine.guard.sample_rate)
        trainer = Trainer(
            stores,
            engine,
            _config(settings),
            poisoner=Cocktail(),
            listeners=[metrics.observe],
            own_engine=own_engine,
        )
        metrics.watch(lambda: _levels(settings, trainer, stores))
        app = application(
            settings, stores=stores, learner=trainer, replays=trainer.replays, metrics=metrics, keyed=keyed
        )
        yield Served(app, trainer, stores, metrics)


@contextmanager
def started(trainer: Trainer) -> Iterator[None]:
    """The trainer learns; at the end it is drained and checkpointed."""
    trainer.start()
    try:
        yield
    finally:
        trainer.stop(drain_seconds=door.GRACE_SECONDS)


def _config(settings: Settings) -> TrainerConfig:
    return TrainerConfig(
        step_linger_seconds=settings.step_linger_seconds,
        checkpoint_every=settings.checkpoint_every,
        attempts=settings.attempts,
        retention=Retention(
            log_bytes=settings.log_keep_bytes, quarantine_seconds=settings.quarantine_max_age_days * folder.DAY
        ),
    )


def _levels(settings: Settings, trainer: Trainer, stores: Stores) -> Levels:
    backlog, quarantine, checkpoints = stores.log.backlog(), stores.quarantine.size(), stores.checkpoints.all()
    return Levels(
        status=trainer.status,
        inbox_batches=backlog.batches,
        inbox_oldest_at=backlog.oldest_created_at,
        quarantine_samples=quarantine.samples,
        quarantine_oldest_at=quarantine.oldest_held_at,
        checkpoint_at=checkpoints[-1].created_at if checkpoints else None,
        dead_letters=stores.dead_letters.waiting(),
        durability_relaxed=bool(stores.durability().relaxed_because),
        producers={record.name for record in stores.keys.all()},
        now=time.time(),
        staleness=trainer.staleness if settings.role == "all" else None,
        device_memory_bytes=_device_memory(trainer.status.device),
    )


def _device_memory(device: str) -> int | None:
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else None


def _introduce(served: Served) -> None:
    status, recipe = served.trainer.status, served.trainer.publication.recipe
    logger.info("model %s, %d parameters, on %s", recipe.model, status.parameters, status.device)
    waiting = served.stores.log.backlog().batches
    logger.info("checkpoint %s, step %d; %d batches wait in the log", status.checkpoint, status.step, waiting)
    if status.armed:
        logger.info("guard armed, mode %s", status.mode)
    else:
        logger.warning("guard NOT armed, mode %s: %s", status.mode, status.unarmed_because)
