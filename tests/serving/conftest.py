"""A learner that a test scripts, and the real store through which replicas hear it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from tests.redis_server import RedisServer
from tests.test_metrics import STATUS

from weir.core import Reader, build
from weir.serving import publisher, subscriber, word
from weir.serving.word import Word
from weir.stores.base import CheckpointInfo, Cursor, Publications
from weir.stores.bell import Bell
from weir.stores.redis import Redis
from weir.types import InputSpec, LearnerStatus, Publication, Recipe

RECIPE = Recipe("mlp", InputSpec((3,), 2), {"hidden": 4})
INFO = CheckpointInfo("00000001-0", 0, Cursor(3, 1), 10.0, 100, "burn-in", "ab" * 32)
X = torch.tensor([[0.1, 0.2, 0.3]])


def published(step: int) -> Publication:
    """A model of its own for every step."""
    copy = Reader(RECIPE, device="cpu").copy(build(RECIPE, seed=step).state_dict())
    return Publication(step, RECIPE, copy, copy.weights)


class Scripted:
    """A trainer that has what a test gives it."""

    def __init__(self) -> None:
        self.publication = published(1)
        self.status: LearnerStatus = replace(STATUS, step=1)
        self.news = Bell()

    def checkpoints(self) -> Sequence[CheckpointInfo]:
        return (INFO,)

    def learn(self, step: int) -> None:
        """Make a newer model."""
        self.publication = published(step)
        self.status = replace(self.status, step=step)
        self.news.ring()


def until(happened: Callable[[], object], what: str) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + 20.0
    while not happened():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


def stored(publications: Publications) -> int | None:
    """The step of the newest published model."""
    found = publications.newest()
    return None if found is None else word.unpack(found).step


def heard(publications: Publications) -> Word | None:
    """The learner's newest word."""
    found = publications.heard()
    return None if found is None else word.read(found.word)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that says something all the time, and a replica that gives up on it soon."""
    monkeypatch.setattr(publisher, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(subscriber, "BREATH_SECONDS", 0.02)
    monkeypatch.setattr(subscriber, "LOST_SECONDS", 0.5)
    monkeypatch.setattr(subscriber, "WAIT_SECONDS", 0.05)


@pytest.fixture
def prefix() -> str:
    """What the names of this test's own keys begin with."""
    return uuid.uuid4().hex


@pytest.fixture
def stores(redis_server: RedisServer, prefix: str) -> Iterator[Redis]:
    """The stores under the test's prefix, as the learner of them."""
    with Redis(redis_server.url, prefix=prefix) as opened, opened.owned():
        yield opened


@pytest.fixture
def publications(stores: Redis) -> Publications:
    return stores.publications
