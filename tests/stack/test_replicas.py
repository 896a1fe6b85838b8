"""A learner and two replicas over one Redis, as a profile of docker-compose.yml starts them, and what dies of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stack.conftest import readable, started
from tests.stack.engine import PROJECT, Stack, until
from tests.stack.sender import Sender, acknowledge, assert_all_learned

from weir.client import Client
from weir.datasets import Dataset

SERVICES = {"secrets", "init", "redis", "learner", "api-1", "api-2"}
STALE_SECONDS = 3.0


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    given = readable(folder / "given", {})
    split = Stack(folder, given, f"{PROJECT}-split", profile="replicas", keeper="learner", STACK_WHOLE="0")
    with started(split, SERVICES) as made:
        yield made


@pytest.fixture(scope="module")
def first(stack: Stack, rest: Dataset) -> Sender:
    """A producer of its own at each replica, with samples of its own."""
    return Sender(stack.url, stack.key("first", "producer").read_text().strip(), rest.x[::2], rest.y[::2])


@pytest.fixture(scope="module")
def second(stack: Stack, rest: Dataset) -> Sender:
    return Sender(stack.replica_url, stack.key("second", "producer").read_text().strip(), rest.x[1::2], rest.y[1::2])


@pytest.fixture(scope="module")
def readers(stack: Stack) -> Iterator[tuple[Client, Client]]:
    """Who reads from each replica."""
    key = stack.key("auditor", "reader").read_text().strip()
    with Client(stack.url, key, patience=60.0) as one, Client(stack.replica_url, key, patience=60.0) as other:
        yield one, other


def test_without_a_learner_a_killed_replica_comes_back_both_predict_and_nothing_is_lost(
    stack: Stack, first: Sender, second: Sender, readers: tuple[Client, Client], rest: Dataset
) -> None:
    before = readers[0].predict(rest.x[:5])
    with first, second:
        acknowledge_both(first, second)
        stack.compose("kill", "learner")
        stack.kill("api-2")
        acknowledge_both(first, second)
        until(lambda: True if all(is_stale(replica, rest) for replica in readers) else None, "stale predictions", 30)
        stack.compose("start", "learner")
    for steady in (first, second):
        assert_all_learned(readers[0], steady)
    until(lambda: True if all(r.predict(rest.x[:5]).step > before.step for r in readers) else None, "newer models", 30)


def acknowledge_both(first: Sender, second: Sender) -> None:
    acknowledge(first, 5)
    acknowledge(second, 5)


def is_stale(replica: Client, rest: Dataset) -> bool:
    return replica.predict(rest.x[:5]).staleness_seconds > STALE_SECONDS
