"""The whole service in one process: it takes batches, learns from them and answers predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from weir.api.app import create_app
from weir.config import Settings
from weir.core.probe import ProbeSet
from weir.serving import learning
from weir.serving.learning import Served
from weir.types import Batch


def serve(settings: Settings) -> None:
    """Serve until a signal; see ``learning.serve``."""
    learning.serve(settings, running)


@contextmanager
def running(settings: Settings) -> Iterator[Served]:
    """Everything but the server: a started trainer that is drained and checkpointed at the end."""
    with learning.opened(settings) as own:
        trainer, guard = own.trainer, settings.engine().guard

        def check_probe(batch: Batch) -> None:
            probe = ProbeSet(batch.x, batch.y, created_at=0.0, source="check")
            probe.check(trainer.publication.recipe.inputs, guard)

        app = create_app(
            stores=own.stores,
            learner=trainer,
            replays=trainer.replays,
            metrics=own.metrics,
            check_probe=check_probe,
            limits=learning.limits(settings),
            keyed=own.keyed,
            clock=time.time,
        )
        with learning.started(trainer):
            yield Served(app, trainer, own.stores, own.metrics)
