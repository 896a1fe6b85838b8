"""What a long inbox costs: appending to logs in which many deliveries wait, and taking steps off them."""

from __future__ import annotations

import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from weir import codec
from weir.bench import redis_server
from weir.bench.aging import ROWS_A_BEAT, Plan, Progress, quantile, sizes
from weir.stores.base import EntryKind, IdempotencyKey, Log
from weir.stores.sqlite import Sqlite
from weir.trainer.cutter import Cutter
from weir.types import Batch

WIDTH, SAMPLES = 4, 5  # of a delivery: a step takes several
WARMUP = 5  # first tries, which are not counted: they meet what filling has left to be written
PATIENCE = 60.0  # seconds
DIGEST = "0" * 64
SPARE, ENDLESS = 100_000, 1 << 50  # entries and bytes: the bounds on what waits are out of the way
Opened = Callable[[bool], Log]
"""Gives the log with its writes relaxed, or durable."""


@dataclass(frozen=True, slots=True)
class Grown:
    """One store with so many ``rows`` waiting: seconds of an append, durable and relaxed, and of taking a step.

    Taking is what the trainer asks of the log for one step: reading, cutting, and saying that it was consumed.
    """

    part: str
    store: str
    rows: int
    append_seconds: float
    append_p99_seconds: float
    relaxed_seconds: float
    relaxed_p99_seconds: float
    take_seconds: float
    take_p99_seconds: float
    backlog_seconds: float


def grown(store: str, plan: Plan, progress: Progress) -> Iterator[Grown]:
    """Fill the store's log, and measure at each size."""
    bounds = {"max_batches": 2 * plan.rows + SPARE, "max_bytes": ENDLESS}
    with (
        tempfile.TemporaryDirectory(prefix="weir-", dir=plan.place) as folder,
        STORES[store](Path(folder), bounds) as opened,
    ):
        deliveries = Deliveries(plan)
        cutter = Cutter(opened(True), step_size=plan.samples)
        for size in sizes(plan.rows):
            fill(opened(True), size, deliveries, progress)
            durable = _timed(plan.tries, partial(deliveries.send, opened(False)))
            log = opened(True)
            relaxed = _timed(plan.tries, partial(deliveries.send, log))
            backlog = _timed(plan.tries, log.backlog)
            taken = _timed(max(1, min(plan.tries, size // 10)), partial(take, log, cutter))
            yield Grown(
                part="inbox",
                store=store,
                rows=size,
                append_seconds=quantile(durable, 0.5),
                append_p99_seconds=quantile(durable, 0.99),
                relaxed_seconds=quantile(relaxed, 0.5),
                relaxed_p99_seconds=quantile(relaxed, 0.99),
                take_seconds=quantile(taken, 0.5),
                take_p99_seconds=quantile(taken, 0.99),
                backlog_seconds=quantile(backlog, 0.5),
            )


class Deliveries:
    """Appends the same small batch, for one producer after the other and under a key of its own, as the client does."""

    def __init__(self, plan: Plan) -> None:
        generator = torch.Generator().manual_seed(plan.seed)
        x, y = torch.randn(SAMPLES, WIDTH, generator=generator), torch.randint(10, (SAMPLES,), generator=generator)
        self._payload = codec.encode(Batch(x, y))
        self._producers = plan.producers
        self._numbers = count()

    def send(self, log: Log) -> None:
        """Append one."""
        number = next(self._numbers)
        key = IdempotencyKey(str(number), DIGEST)
        log.append(EntryKind.BATCH, f"producer {number % self._producers}", self._payload, samples=SAMPLES, key=key)


def fill(log: Log, size: int, deliveries: Deliveries, progress: Progress) -> None:
    """Append until so many entries wait."""
    for row in range(1, size - log.backlog().batches + 1):
        deliveries.send(log)
        if row % ROWS_A_BEAT == 0:
            progress(1)


def take(log: Log, cutter: Cutter) -> None:
    """Cut a step, and say that it was consumed."""
    cut = cutter.cut(partial=True)
    if cut is not None:
        log.consumed(cut.end.position)


def _timed(times: int, job: Callable[[], object]) -> array[float]:
    """The seconds of each of so many runs."""
    for _ in range(WARMUP):
        job()
    seconds = array("d", bytes(8 * times))
    for turn in range(times):
        start = time.perf_counter()
        job()
        seconds[turn] = time.perf_counter() - start
    return seconds


@contextmanager
def _sqlite(folder: Path, bounds: Mapping[str, Any]) -> Iterator[Opened]:
    file = folder / "weir.db"
    with Sqlite(file, relaxed=True, **bounds) as relaxed, Sqlite(file, **bounds) as durable:
        yield lambda easy: (relaxed if easy else durable).log


@contextmanager
def _redis(folder: Path, bounds: Mapping[str, Any]) -> Iterator[Opened]:
    import redis

    from weir.stores.redis import Redis

    with (
        redis_server.running(folder) as socket,
        redis.Redis(unix_socket_path=str(socket)) as client,
        Redis(f"unix://{socket}", timeout=PATIENCE, **bounds) as stores,
        stores.owned(),
    ):

        def opened(relaxed: bool) -> Log:
            client.config_set("appendfsync", "no" if relaxed else "always")
            return stores.log

        yield opened


STORES: dict[str, Callable[[Path, Mapping[str, Any]], AbstractContextManager[Opened]]] = {
    "sqlite": _sqlite,
    "redis": _redis,
}
