"""Servers to measure, each a process of its own: Weir, and what its figures are held against.

``python -m weir.bench.subjects SUBJECT`` serves one, and prints its port; ``running`` does so.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from weir import logs
from weir.api import garbage
from weir.api.app import create_app
from weir.api.service import Limits
from weir.core import Engine, EngineConfig
from weir.errors import ServiceUnavailable
from weir.metrics import Metrics
from weir.redteam import Cocktail
from weir.stores.base import Stores
from weir.stores.disk import CheckpointFolder
from weir.stores.sqlite import Sqlite
from weir.trainer import Trainer, TrainerConfig, initialise
from weir.types import Batch, InputSpec, Recipe

PATH = "/v1/batches"
_ENDLESS = 1 << 40  # batches and bytes: nobody learns, and nothing may be refused for that
_RING = 1 << 28  # bytes of the file that a bare server writes over and over
_CLASSES = 10
_PROBE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A server: weir, socket, or one of a single route.

    starlette reads the body, writing also writes it to a file, without a sync, and fastapi takes lists of numbers by
    pydantic into tensors.

    ``core`` pins it; ``learn`` starts the learner.
    """

    name: str
    shape: tuple[int, ...] = (64,)
    relaxed: bool = False
    learn: bool = False
    core: int | None = None
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Where a subject listens, and its process."""

    port: int
    process: int


@contextmanager
def running(subject: Subject) -> Iterator[Running]:
    """The subject as a process, listening; raises ServiceUnavailable when it does not start."""
    command = [sys.executable, "-m", "weir.bench.subjects", json.dumps(asdict(subject))]
    with (
        tempfile.TemporaryFile("w+") as told,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            port = process.stdout.readline()
            if not port:
                told.seek(0)
                raise ServiceUnavailable(f"{subject.name} did not start:\n{told.read()[-2000:]}")
            yield Running(int(port), process.pid)
        finally:
            process.kill()


def samples(count: int, shape: Sequence[int], seed: int) -> Batch:
    """Random bytes as samples, ``x`` (count, *shape) uint8, with labels that go round."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    return Batch(x, torch.arange(count) % _CLASSES)


def armed(shape: Sequence[int], config: EngineConfig) -> Engine:
    """A small model with an armed guard, which has learned nothing."""
    inputs = InputSpec(tuple(shape), _CLASSES, low=0.0, high=1.0)
    recipe = Recipe("mlp", inputs) if len(shape) == 1 else Recipe("cnn", inputs, {"width": 8})
    engine = Engine(recipe, config)
    probe = samples(_PROBE, shape, seed=1_000_003)
    engine.set_probe(probe.x, probe.y, created_at=time.time(), source="bench")
    engine.set_anchor()
    return engine


class Lists(BaseModel):
    """The body that a service takes when it is written in ten lines."""

    x: list[list[float]]
    y: list[int]


def _fastapi() -> ASGIApp:
    app = FastAPI()

    @app.post(PATH, status_code=202)
    def take(body: Lists) -> dict[str, int]:
        x, y = torch.tensor(body.x), torch.tensor(body.y)
        return {"samples": min(len(x), len(y))}

    return app


def _starlette() -> ASGIApp:
    async def take(request: Request) -> JSONResponse:
        return JSONResponse({"bytes": len(await request.body())}, 202)

    return Starlette(routes=[Route(PATH, take, methods=["POST"])])


def _writing(file: int) -> ASGIApp:
    place = 0

    async def take(request: Request) -> JSONResponse:
        nonlocal place
        body = await request.body()
        os.pwrite(file, body, place)
        place = (place + len(body)) % _RING
        return JSONResponse({"bytes": len(body)}, 202)

    return Starlette(routes=[Route(PATH, take, methods=["POST"])])


@contextmanager
def _weir(subject: Subject) -> Iterator[ASGIApp]:
    """The service as ``weir serve`` wires it, with a learner that runs only if it is to."""
    logs.configure("info", "text")
    config = EngineConfig()
    with _stores(Path(subject.folder), relaxed=subject.relaxed) as stores:
        if not stores.checkpoints.all():
            initialise(stores, armed(subject.shape, config), at=time.time())
        metrics = Metrics(sample_rate=config.guard.sample_rate)
        trainer = Trainer(stores, config, TrainerConfig(), poisoner=Cocktail(), listeners=[metrics.observe])
        if subject.learn:
            trainer.start()
        yield create_app(
            stores=stores,
            learner=trainer,
            replays=trainer.replays,
            metrics=metrics,
            check_probe=lambda batch: None,
            limits=Limits(),
            keyed=False,
            clock=time.time,
        )


@contextmanager
def _stores(folder: Path, *, relaxed: bool) -> Iterator[Stores]:
    with Sqlite(folder / "weir.db", max_batches=_ENDLESS, max_bytes=_ENDLESS, relaxed=relaxed) as database:
        yield Stores(
            log=database.log,
            journal=database.journal,
            quarantine=database.quarantine,
            dead_letters=database.dead_letters,
            audit=database.audit,
            keys=database.keys,
            checkpoints=CheckpointFolder(folder / "checkpoints", 2),
            candidates=CheckpointFolder(folder / "candidates", 2),
            durability=lambda: database.durability,
            owned=database.owned,
        )


def _socket(listener: socket.socket) -> None:
    """What any server does at least: take the bytes of a request, and answer."""
    while True:
        connection, _ = listener.accept()
        with connection:
            _answer(connection)


def _answer(connection: socket.socket) -> None:
    buffer, left = bytearray(1 << 20), 0
    while count := connection.recv_into(buffer):
        if not left:
            head, _, _ = bytes(buffer[:count]).partition(b"\r\n\r\n")
            left = len(head) + 4 + int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        left -= count
        if not left:
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")


def _serve(app: ASGIApp, listener: socket.socket) -> None:
    garbage.spare_what_stays()
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


_BARE: dict[str, Callable[[], ASGIApp]] = {"fastapi": _fastapi, "starlette": _starlette}


def main(subject: Subject) -> None:
    """Serve until killed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    if subject.core is not None:
        os.sched_setaffinity(0, {subject.core})
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        if subject.name == "weir":
            with _weir(subject) as app:
                print(port, flush=True)  # noqa: T201
                _serve(app, listener)
            return
        print(port, flush=True)  # noqa: T201
        if subject.name == "socket":
            _socket(listener)
        elif subject.name == "writing":
            with tempfile.TemporaryFile(dir=subject.folder) as file:
                _serve(_writing(file.fileno()), listener)
        else:
            _serve(_BARE[subject.name](), listener)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(Subject(**{**given, "shape": tuple(given["shape"])}))
