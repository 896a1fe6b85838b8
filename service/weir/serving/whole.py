"""The whole service in one process: it takes batches, learns from them and answers predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from weir.config import Settings
from weir.serving import learning
from weir.serving.learning import Served
from weir.trainer import NewEngine


def serve(settings: Settings) -> None:
    """Serve until a signal; see ``learning.serve``."""
    learning.serve(settings, running)


@contextmanager
def running(settings: Settings, own_engine: NewEngine | None = None) -> Iterator[Served]:
    """Everything but the server: a started trainer that is drained and checkpointed at the end."""
    with learning.opened(settings, own_engine) as own, learning.started(own.trainer):
        yield own
