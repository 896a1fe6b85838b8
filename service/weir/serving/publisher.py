"""What the learner does for its replicas: it publishes models, the newest of each second, and says where it stands."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from weir.errors import Fenced, StorageFailed
from weir.serving import word
from weir.serving.word import Word
from weir.stores.base import CheckpointInfo, Publications
from weir.stores.bell import Bell
from weir.types import LearnerStatus, Publication

logger = logging.getLogger("weir.serving.publisher")
HEARTBEAT_SECONDS = 1.0  # longest silence
BREATH_SECONDS = 0.02  # shortest time between two words


class Source(Protocol):
    """What of a trainer is published: both values are swapped whole, and ``news`` rings when one of them is new."""

    @property
    def publication(self) -> Publication: ...
    @property
    def status(self) -> LearnerStatus: ...
    @property
    def news(self) -> Bell: ...
    def checkpoints(self) -> Sequence[CheckpointInfo]: ...


class Publisher:
    """A thread beside the trainer, which it never makes wait; use it in a ``with`` around the trainer's life.

    A new model follows the one before after ``every`` seconds at least: what the trainer made meanwhile is passed
    over, and the newest is published in any case, at the latest on leaving. ``address`` is where the learner is found.
    """

    def __init__(self, trainer: Source, publications: Publications, *, every: float, address: str) -> None:
        self._trainer = trainer
        self._publications = publications
        self._every = every
        self._address = address
        self._published: Publication | None = None
        self._digest = ""
        self._version = 0
        self._put_at = float("-inf")
        self._said: LearnerStatus | None = None
        self._checkpoints: tuple[CheckpointInfo, ...] = ()
        self._listed: str | None = None
        self._failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weir-publisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._trainer.news.ring()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._attempt(due=time.monotonic() - self._put_at >= self._every)
                self._stopping.wait(HEARTBEAT_SECONDS if self._failing else BREATH_SECONDS)
                self._trainer.news.wait(self._has_news, self._patience)
            self._attempt(due=True)
        except Fenced as error:
            logger.error("nothing is published any more: %s", error)
        except Exception:
            logger.exception("nothing is published any more, though the learner goes on: restart it")

    def _attempt(self, *, due: bool) -> None:
        """One model, if one is ``due`` and new, and one word; a store that fails is told of once, and asked again."""
        try:
            self._tell(due=due)
        except StorageFailed as error:
            if not self._failing:
                logger.warning("replicas hear nothing until the store is back: %s", error)
            self._failing = True
            return
        if self._failing:
            logger.warning("the store is back: replicas hear again")
        self._failing = False

    def _tell(self, *, due: bool) -> None:
        status = self._trainer.status
        publication = self._trainer.publication  # after the status: what that tells of is in it
        try:
            if due and publication is not self._published:
                self._put(publication)
        finally:  # a store that is too full for a model has room for a word
            self._say(status, current=publication is self._published)

    def _say(self, status: LearnerStatus, *, current: bool) -> None:
        version = self._publications.say(word.written(Word(status, self._listing(status), self._address, current)))
        self._said = status
        if version != self._version:
            self._published, self._digest, self._put_at = None, "", float("-inf")  # the store has lost it
            self._said = None

    def _put(self, publication: Publication) -> None:
        payload, digest = word.pack(publication)
        if digest != self._digest:  # a command makes a new publication of the same weights
            self._version = self._publications.put(payload, digest)
            self._digest, self._put_at = digest, time.monotonic()
            logger.debug("published step %d as version %d", publication.step, self._version)
        self._published = publication

    def _listing(self, status: LearnerStatus) -> tuple[CheckpointInfo, ...]:
        """The checkpoints, read from the disk when there is a new one."""
        if status.checkpoint != self._listed:
            self._checkpoints, self._listed = tuple(self._trainer.checkpoints()), status.checkpoint
        return self._checkpoints

    def _has_news(self) -> bool:
        return self._stopping.is_set() or self._trainer.status is not self._said

    @property
    def _patience(self) -> float:
        """How long to wait for news: until a word is due, or a model that waits for its turn."""
        if self._trainer.publication is self._published:
            return HEARTBEAT_SECONDS
        return min(HEARTBEAT_SECONDS, max(0.0, self._put_at + self._every - time.monotonic()))
