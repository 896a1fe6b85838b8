"""An honest producer that goes on sending while the stack around it breaks, and remembers what was acknowledged."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tests.stack.engine import until
from torch import Tensor

from weir.client import BatchReport, Client

BATCH = 10  # samples
PAUSE_SECONDS = 0.2
PATIENCE_SECONDS = 120.0
SETTLE_SECONDS = 90


class Sender:
    """Sends batches in a thread of its own while its block runs; then ``acknowledged`` holds their ids."""

    def __init__(self, url: str, key: str, x: Tensor, y: Tensor) -> None:
        self.acknowledged: list[str] = []
        self.failure: Exception | None = None
        self._client = Client(url, key, patience=PATIENCE_SECONDS)
        self._rows = (x, y)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _send(self) -> None:
        x, y = self._rows
        start = 0
        try:
            while not self._stop.wait(PAUSE_SECONDS):
                rows = slice(start, start + BATCH)
                self.acknowledged.append(self._client.send(x[rows], y[rows]).id)
                start = (start + BATCH) % (len(y) - BATCH)
        except Exception as failure:  # told by whoever waits for the block
            self.failure = failure


def fates(client: Client, ids: list[str]) -> dict[str, BatchReport]:
    """What became of each batch; raises NotFound for one that was lost."""
    return {id: client.batch(id) for id in ids}


def acknowledge(steady: Sender, more: int) -> None:
    """Wait until so many more batches are acknowledged."""
    target = len(steady.acknowledged) + more

    def done() -> bool | None:
        assert steady.failure is None, steady.failure
        return True if len(steady.acknowledged) >= target else None

    until(done, f"{more} more batches acknowledged", 120)


def assert_all_learned(auditor: Client, steady: Sender) -> None:
    """Every acknowledged batch is there and decided, each once and whole."""
    ids = steady.acknowledged
    assert len(set(ids)) == len(ids)

    def settled() -> bool | None:
        return True if all(report.counts.pending == 0 for report in fates(auditor, ids).values()) else None

    until(settled, "every acknowledged batch is decided", SETTLE_SECONDS)
    for report in fates(auditor, ids).values():
        assert report.state not in {"queued", "dead"}, report
        assert report.counts.accept + report.counts.correct + report.counts.quarantine == report.samples, report
