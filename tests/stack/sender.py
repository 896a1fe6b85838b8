"""An honest producer that goes on sending while the stack around it breaks, and remembers what was acknowledged."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from torch import Tensor

from weir.client import BatchReport, Client

BATCH = 10  # samples
PAUSE_SECONDS = 0.2
PATIENCE_SECONDS = 120.0


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
