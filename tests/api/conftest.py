"""A whole service on a loopback port: real stores, a real trainer, a real server, and a caller for every role."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from starlette.types import ASGIApp
from torch import Tensor

from weir.api.app import create_app
from weir.api.auth import issue
from weir.api.service import Limits
from weir.codec import SAFETENSORS, encode
from weir.core import BurnIn, CorrectionConfig, Engine, EngineConfig, GuardConfig, LearnerConfig, burn_in
from weir.core.probe import ProbeSet
from weir.metrics import Metrics
from weir.stores.base import Cursor, DeadLetter, Decision, EntryKind, Held, Role, Stores
from weir.stores.disk import CheckpointFolder
from weir.stores.sqlite import Sqlite
from weir.trainer import Trainer, TrainerConfig, initialise
from weir.types import Batch, InputSpec, Reason, Recipe, SampleVerdict, StepReport, Verdict

NOW = 1_700_000_000.0
INPUTS = InputSpec(shape=(2, 2), classes=3, low=0.0, high=1.0)
RECIPE = Recipe("mlp", INPUTS, {"hidden": 16})
STEP_SIZE = 8
GUARD = GuardConfig(sample_rate=0.05, step_rate=1e-6, producer_rate=1e-6)
CONFIG = EngineConfig(
    learner=LearnerConfig(lr=0.01), guard=GUARD, correction=CorrectionConfig(enabled=False), step_size=STEP_SIZE
)
CALLERS = {
    "alice": Role.PRODUCER,
    "bob": Role.PRODUCER,
    "reader": Role.READER,
    "reviewer": Role.REVIEWER,
    "admin": Role.ADMIN,
}


def samples(n: int, *, seed: int, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """n samples of well separated classes, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % INPUTS.classes
    centres = torch.tensor([[0.8, 0.2, 0.2, 0.2], [0.2, 0.8, 0.2, 0.2], [0.2, 0.2, 0.8, 0.2]])
    x = centres[y] + noise * torch.randn(n, 4, generator=generator)
    return x.clamp(0, 1).reshape(n, *INPUTS.shape), y


def batch(n: int = STEP_SIZE, *, seed: int = 1, strange: int = 0, ids: tuple[str, ...] | None = None) -> Batch:
    """A batch whose first ``strange`` samples are like nothing else: the guard suspects those and no others."""
    x, y = samples(n, seed=seed, noise=0.01)
    x[:strange] = 1.0
    return Batch(x, y, ids)


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The address of a real server on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield "http://{}:{}".format(*listening.getsockname())
        finally:
            server.should_exit = True
            thread.join()


def dead_letter(batch: str, first: int = 0, *, producer: str = "alice") -> DeadLetter:
    """Two samples that the engine could not process, with ids of their producer's."""
    x, y = samples(2, seed=9)
    payload = encode(Batch(x, y, ("one", "two")))
    return DeadLetter(batch, first, 2, producer, 1, "ArithmeticError: no such kernel", payload, NOW)


def held_sample(batch: str, index: int, *, producer: str = "alice", reason: Reason = Reason.SAMPLE) -> Held:
    """A sample as the guard holds it; its label is 1."""
    verdict = SampleVerdict(Verdict.QUARANTINE, reason, 9.0, 5.0, 1.5, 0.001)
    payload = encode(Batch(torch.full((1, *INPUTS.shape), 0.5), torch.tensor([1])))
    return Held(batch, index, producer, 1, 1, verdict, payload, held_at=NOW + index)


class Scripted:
    """A learner that says it is well and has read all of the log."""

    def __init__(self, trainer: Trainer) -> None:
        self.publication = trainer.publication
        self.status = replace(trainer.status, alive=True, position=2**31)
        self.staleness = 0.0
        self.checkpoints = trainer.checkpoints
        self.attend: Callable[[], None] = trainer.attend


class House:
    """A service and what lies behind it."""

    def __init__(
        self, file: Sqlite, stores: Stores, transport: httpx.BaseTransport, *, keyed: bool, limits: Limits
    ) -> None:
        self.file = file
        self.stores = stores
        self.metrics = Metrics()
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        cut = TrainerConfig(step_linger_seconds=0.01)
        self.trainer = Trainer(stores, CONFIG, cut, listeners=[self._listen])
        self.keys = {name: self._key(name, role) for name, role in CALLERS.items()} if keyed else {}
        self.app = create_app(
            stores=stores,
            learner=self.trainer,
            replays=self.trainer.replays,
            metrics=self.metrics,
            check_probe=lambda sent: ProbeSet(sent.x, sent.y, created_at=0, source="").check(INPUTS, GUARD),
            limits=limits,
            keyed=keyed,
            clock=lambda: NOW,
        )
        self._transport = transport

    @contextmanager
    def living(self, *, started: bool) -> Iterator[None]:
        """Learn (if ``started``) and serve."""
        if started:
            self.trainer.start()
        try:
            with serving(self.app) as self.address:
                try:
                    yield
                finally:
                    self.go_on.set()
        finally:
            self.trainer.stop()

    def caller(self, name: str | None = None, **headers: str) -> httpx.Client:
        """A client with the key of ``name``, or with none."""
        if name:
            headers["Authorization"] = f"Bearer {self.keys[name]}"
        return httpx.Client(
            base_url=self.address,
            headers=headers,
            transport=self._transport,
            trust_env=False,
            timeout=30,
        )

    def send(self, sent: Batch, *, by: str = "alice", **headers: str) -> dict[str, Any]:
        """Deliver a batch and wait until it is decided."""
        headers["Content-Type"] = SAFETENSORS
        answer = self.caller(by).post("/v1/batches?wait=20", content=encode(sent), headers=headers)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def hold_one(self) -> str:
        """The id of a sample that the guard holds."""
        self.send(batch(strange=1))
        items = self.caller("reader").get("/v1/quarantine").json()["items"]
        return str(items[0]["id"])

    def hold(self, *samples: Held) -> None:
        """Put samples in quarantine as the learner does."""
        self.stores.quarantine.put(samples)

    def behave(self, **parts: Any) -> None:
        """Give the application other parts of its service."""
        self.app.state.service = replace(self.app.state.service, **parts)

    @contextmanager
    def scripted(self, answers: Mapping[EntryKind, Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """In place of a trainer that was not started: give every command its answer; yields the orders as they come."""
        ended, orders = threading.Event(), list[dict[str, Any]]()
        self.behave(learner=Scripted(self.trainer))

        def run(position: int) -> None:
            while not ended.is_set():
                for entry in self.stores.log.read(position, 10):
                    position = entry.position
                    if entry.kind in answers:
                        orders.append(json.loads(entry.payload))
                        start, end = Cursor(position - 1), Cursor(position)
                        decision = Decision(1, start, end, command=entry.id, result=answers[entry.kind])
                        self.stores.journal.record(decision)
                self.stores.log.wait(position, 0.05)

        thread = threading.Thread(target=run, args=(self.stores.log.tail(),))
        thread.start()
        try:
            yield orders
        finally:
            ended.set()
            thread.join()

    def stall(self) -> None:
        """Make the trainer stop in the middle of a step, until ``go_on`` is set."""
        self.go_on.clear()
        self.stalled.clear()
        answer = self.caller("alice").post(
            "/v1/batches", content=encode(batch()), headers={"Content-Type": SAFETENSORS}
        )
        assert answer.status_code == 202
        assert self.stalled.wait(20)

    def _listen(self, report: StepReport) -> None:
        self.metrics.observe(report)
        self.stalled.set()
        assert self.go_on.wait(60)

    def _key(self, name: str, role: Role) -> str:
        record, key = issue(name, [role], lambda: NOW)
        self.stores.keys.add(record)
        return key

    def stand(self) -> tuple[int, int, int]:
        """What a refused request must leave as it was: the model's step, the log's tail, the journal's length."""
        return self.trainer.publication.step, self.stores.log.tail(), len(self.stores.journal.after(Cursor()))


Open = Callable[..., AbstractContextManager[House]]


@pytest.fixture(scope="session")
def trained() -> Engine:
    """A model after burn-in, with a probe set: the guard is armed."""
    engine = burn_in(RECIPE, CONFIG, *samples(150, seed=10), plan=BurnIn(epochs=8, batch=10))
    engine.set_probe(*samples(400, seed=11), created_at=NOW - 60, source="tests")
    assert engine.unarmed_because is None
    return engine


@pytest.fixture(scope="session")
def open_house(trained: Engine) -> Iterator[Open]:
    """Opens a service over a folder: ``with open_house(folder, keyed=..., limits=...) as house``."""
    with httpx.HTTPTransport(verify=False) as transport, pytest.MonkeyPatch.context() as patch:
        patch.setattr("weir.trainer.thread.IDLE_SECONDS", 0.02)  # how late a stop is noticed

        @contextmanager
        def opened(
            folder: Path,
            *,
            keyed: bool = True,
            started: bool = True,
            limits: Limits | None = None,
            max_batches: int = 1000,
        ) -> Iterator[House]:
            with Sqlite(folder / "weir.db", max_batches=max_batches) as file:
                checkpoints = CheckpointFolder(folder / "checkpoints")
                stores = Stores(
                    log=file.log,
                    journal=file.journal,
                    quarantine=file.quarantine,
                    dead_letters=file.dead_letters,
                    audit=file.audit,
                    keys=file.keys,
                    checkpoints=checkpoints,
                    candidates=CheckpointFolder(folder / "candidates"),
                    durability=lambda: file.durability,
                    owned=file.owned,
                )
                initialise(stores, trained, at=NOW)
                house = House(file, stores, transport, keyed=keyed, limits=limits or Limits())
                with house.living(started=started):
                    yield house

        yield opened


@pytest.fixture
def service_app(open_house: Open, tmp_path: Path) -> Iterator[House]:
    """A service of the test's own, with keys."""
    with open_house(tmp_path) as house:
        yield house


@pytest.fixture(scope="module")
def unmoved(open_house: Open, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service that the tests of a module share, because all they send must be refused."""
    with open_house(tmp_path_factory.mktemp("house")) as house:
        yield house
