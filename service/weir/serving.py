"""The whole service in one process: stores, trainer and API wired together, served until a signal."""

from __future__ import annotations

import errno
import ipaddress
import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import uvicorn
from fastapi import FastAPI

from weir import folder
from weir.api.app import create_app
from weir.api.service import Limits
from weir.config import Settings
from weir.core.probe import ProbeSet
from weir.errors import Conflict, InvalidSetting, NotReady
from weir.metrics import Levels, Metrics
from weir.redteam import Cocktail
from weir.stores.base import Stores
from weir.trainer import Retention, Trainer, TrainerConfig
from weir.types import Batch

logger = logging.getLogger("weir.serving")

GRACE_SECONDS = 10  # for requests under way, and again for what is left in the log


@dataclass(frozen=True, slots=True)
class Served:
    """A running trainer, and the application over it."""

    app: FastAPI
    trainer: Trainer
    stores: Stores
    metrics: Metrics


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was asked, learn what was taken, and write a checkpoint.

    Raises Conflict when the port or the data folder is in use, InvalidSetting for a host that must not be served,
    NotReady when there is no model or the trainer has failed. Call it on the main thread.
    """
    with listening(settings.host, settings.port) as listener, ExitStack() as to_the_end:
        with running(settings) as served:
            to_the_end.enter_context(_outlived_signals())
            if folder.is_example(settings.data):
                logger.warning("THIS MODEL IS AN EXAMPLE, burned in on bundled data: not for anything that matters")
            _introduce(served, listener)
            _answer(served.app, listener)
            logger.info("no more requests; learning what is left, then writing a checkpoint")
        status = served.trainer.status
        if status.failure:
            raise NotReady(f"the trainer failed at step {status.step}: {status.failure}")
        logger.info("stopped at step %d, checkpoint %s", status.step, status.checkpoint)


@contextmanager
def running(settings: Settings) -> Iterator[Served]:
    """Everything but the server: a started trainer that is drained and checkpointed at the end."""
    with folder.owned(settings.data), folder.stores(settings) as stores, stores.owned():
        keyed = _check_exposure(settings, stores)
        engine = settings.engine()
        torch.set_num_threads(settings.threads)
        metrics = Metrics(sample_rate=engine.guard.sample_rate)
        cut = _trainer_config(settings)
        trainer = Trainer(stores, engine, cut, poisoner=Cocktail(), listeners=[metrics.observe])
        metrics.watch(lambda: _levels(trainer, stores))

        def check_probe(batch: Batch) -> None:
            probe = ProbeSet(batch.x, batch.y, created_at=0.0, source="check")
            probe.check(trainer.publication.recipe.inputs, engine.guard)

        app = create_app(
            stores=stores,
            learner=trainer,
            replays=trainer.replays,
            metrics=metrics,
            check_probe=check_probe,
            limits=_limits(settings),
            keyed=keyed,
            clock=time.time,
        )
        trainer.start()
        try:
            yield Served(app, trainer, stores, metrics)
        finally:
            trainer.stop(drain_seconds=GRACE_SECONDS)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; raises Conflict when the port is taken, InvalidSetting when the address is no good."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except PermissionError:
        raise InvalidSetting("WEIR_PORT", port, "a port that this user may open, such as 8790") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"{host}:{port} is in use: stop what listens there, or choose another port with --port"
            ) from None
        raise InvalidSetting("WEIR_HOST", host, f"an address of this machine ({error.strerror})") from None
    with listener:
        yield listener


def _check_exposure(settings: Settings, stores: Stores) -> bool:
    """Whether requests need a key; raises InvalidSetting for a host beyond this machine that nobody has a key for."""
    keyed = any(record.revoked_at is None for record in stores.keys.all())
    if keyed or _is_loopback(settings.host):
        return keyed
    raise InvalidSetting(
        "WEIR_HOST",
        settings.host,
        "127.0.0.1 as long as there is no API key: anyone on the network could teach the model "
        f"(make one with: weir keys add NAME --role admin --data {settings.data})",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trainer_config(settings: Settings) -> TrainerConfig:
    return TrainerConfig(
        step_size=settings.step_size,
        step_linger_seconds=settings.step_linger_seconds,
        checkpoint_every=settings.checkpoint_every,
        attempts=settings.attempts,
        retention=Retention(
            log_bytes=settings.log_keep_bytes, quarantine_seconds=settings.quarantine_max_age_days * folder.DAY
        ),
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        max_samples=settings.max_samples,
        quarantine_max_samples=settings.quarantine_max_samples,
        quarantine_producer_max=settings.quarantine_producer_max,
    )


def _levels(trainer: Trainer, stores: Stores) -> Levels:
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
        device_memory_bytes=_device_memory(trainer.status.device),
    )


def _device_memory(device: str) -> int | None:
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else None


def _answer(app: FastAPI, listener: socket.socket) -> None:
    """Answer requests until a signal."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _introduce(served: Served, listener: socket.socket) -> None:
    status, recipe = served.trainer.status, served.trainer.publication.recipe
    logger.info("model %s, %d parameters, on %s", recipe.model, status.parameters, status.device)
    waiting = served.stores.log.backlog().batches
    logger.info("checkpoint %s, step %d; %d batches wait in the log", status.checkpoint, status.step, waiting)
    if status.armed:
        logger.info("guard armed, mode %s", status.mode)
    else:
        logger.warning("guard NOT armed, mode %s: %s", status.mode, status.unarmed_because)
    relaxed = "; ".join(served.stores.durability().relaxed_because)
    logger.log(
        logging.WARNING if relaxed else logging.INFO, "durability: %s", f"RELAXED: {relaxed}" if relaxed else "full"
    )
    host, port = listener.getsockname()[:2]
    who = _who_may_ask(served.stores)
    logger.info("listening on http://%s:%d (%s)", f"[{host}]" if ":" in host else host, port, who)


def _who_may_ask(stores: Stores) -> str:
    keys = stores.keys.all()
    if not keys:
        return "no keys: this machine only, every role"
    if all(record.revoked_at is not None for record in keys):
        return "every key is revoked, so nobody may ask: make one with weir keys add"
    return "every request needs a key"


@contextmanager
def _outlived_signals() -> Iterator[None]:
    """Outlive SIGINT and SIGTERM: uvicorn raises again what it caught when it is done, and the drain comes after."""
    caught = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
