"""Stores that are asked again while the storage fails: the learner waits for a disk, it does not die of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from weir.errors import StorageFailed
from weir.stores.base import Checkpoints, DeadLetters, Journal, Log, Quarantine, Stores

logger = logging.getLogger("weir.trainer")
FIRST_PAUSE = 0.1  # seconds
LONGEST_PAUSE = 2.0
T = TypeVar("T")


class Patience:
    """Tries until the storage answers, or until ``stopping`` is set; says meanwhile what it waits for.

    Whatever is asked again must change nothing twice, as the stores promise.
    """

    def __init__(self, stopping: threading.Event, tell: Callable[[str | None], None]) -> None:
        self._stopping = stopping
        self._tell = tell

    def ask(self, action: Callable[[], T]) -> T:
        """What ``action`` gives; raises StorageFailed only once the trainer is to stop."""
        pause, since = FIRST_PAUSE, time.monotonic()
        waited = False
        while True:
            try:
                result = action()
            except StorageFailed as error:
                if self._stopping.is_set():
                    raise
                if not waited:
                    logger.error("the learner waits: %s", error)
                    self._tell(str(error))
                waited = True
                self._stopping.wait(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
                continue
            if waited:
                logger.warning("the storage is back after %.1f s; the learner goes on", time.monotonic() - since)
                self._tell(None)
            return result

    def over(self, stores: Stores) -> Stores:
        """The same stores, asked with patience."""
        return replace(
            stores,
            log=cast(Log, _Patient(stores.log, self)),
            journal=cast(Journal, _Patient(stores.journal, self)),
            quarantine=cast(Quarantine, _Patient(stores.quarantine, self)),
            dead_letters=cast(DeadLetters, _Patient(stores.dead_letters, self)),
            checkpoints=cast(Checkpoints, _Patient(stores.checkpoints, self)),
            candidates=cast(Checkpoints, _Patient(stores.candidates, self)),
        )


class _Patient:
    """Passes every call on to a store."""

    def __init__(self, store: object, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)
        return lambda *args, **named: self._patience.ask(partial(method, *args, **named))
