"""The stores under contract. A new one joins by its opener in ``BACKENDS``; every suite here then runs over it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import pytest

from weir.stores.base import Audit, DeadLetters, Journal, Keys, Log, Quarantine
from weir.stores.redis import Redis
from weir.stores.sqlite import Sqlite, segments

# Where the server of this run listens, for the processes that tests start too.
REDIS_URL = "TESTS_REDIS_URL"


class Opened(Protocol):
    """The stores that a backend gives."""

    @property
    def log(self) -> Log: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def quarantine(self) -> Quarantine: ...
    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def keys(self) -> Keys: ...


class Opener(Protocol):
    """Opens the stores that belong to a folder: the same ones each time, closed on leaving.

    A store that is not in files takes the folder's path for its name. Idempotency keys are kept for 48 hours by
    ``clock``.
    """

    def __call__(
        self,
        place: Path,
        *,
        max_batches: int = 1_000,
        max_bytes: int = 1 << 24,
        producer_max_batches: int | None = None,
        producer_max_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> AbstractContextManager[Opened]: ...


BOUNDS = {"max_batches": 1_000, "max_bytes": 1 << 24}


def open_sqlite(place: Path, **how: Any) -> AbstractContextManager[Opened]:
    return Sqlite(place / "weir.db", **(BOUNDS | how))


@contextmanager
def open_segments(place: Path, **how: Any) -> Iterator[Opened]:
    """SQLite with all payloads beside it, however small, in many files."""
    with patch.multiple(segments, OUTSIDE_BYTES=1, SEGMENT_BYTES=64), open_sqlite(place, **how) as stores:
        yield stores


def open_redis(place: Path, **how: Any) -> AbstractContextManager[Opened]:
    return Redis(os.environ[REDIS_URL], prefix=str(place), **(BOUNDS | how))


BACKENDS: dict[str, Opener] = {"redis": open_redis, "segments": open_segments, "sqlite": open_sqlite}
NEEDS = {"redis": [pytest.mark.needs("redis-server")]}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Reopen(Protocol):
    """Closes the stores of this test if they are open, and opens them again."""

    def __call__(self, **bounds: int) -> Opened: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[pytest.param(name, marks=NEEDS.get(name, ())) for name in sorted(BACKENDS)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "redis":
        monkeypatch.setenv(REDIS_URL, request.getfixturevalue("redis_server").url)
    return name


@pytest.fixture
def reopen(backend: str, tmp_path: Path, clock: Clock) -> Iterator[Reopen]:
    with ExitStack() as opened:

        def again(**bounds: int) -> Opened:
            opened.close()
            return opened.enter_context(BACKENDS[backend](tmp_path, clock=clock, **bounds))

        yield again


@pytest.fixture
def stores(reopen: Reopen) -> Opened:
    return reopen()


@pytest.fixture
def log(stores: Opened) -> Log:
    return stores.log


@pytest.fixture
def journal(stores: Opened) -> Journal:
    return stores.journal


@pytest.fixture
def quarantine(stores: Opened) -> Quarantine:
    return stores.quarantine


@pytest.fixture
def dead_letters(stores: Opened) -> DeadLetters:
    return stores.dead_letters


@pytest.fixture
def audit(stores: Opened) -> Audit:
    return stores.audit


@pytest.fixture
def keys(stores: Opened) -> Keys:
    return stores.keys
