"""What a replica knows of the learner: the newest model that it published and that is sound, and its word."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from weir.core import Reader
from weir.errors import NotReady, StorageFailed, WeirError
from weir.serving import word
from weir.serving.word import Model, Word
from weir.stores.base import CheckpointInfo, Heard, Publications
from weir.types import GuardMode, LearnerStatus, Publication, Recipe

logger = logging.getLogger("weir.serving.subscriber")
WAIT_SECONDS = 0.5  # longest wait for a word: how late a stop is noticed
BREATH_SECONDS = 0.25  # between two words where nobody waits: each costs a millisecond that predictions wait for
LOST_SECONDS = 5.0  # of silence, after which the learner counts as gone; it says something every second
_SILENT = LearnerStatus(
    alive=False,
    failure="nothing was heard of the learner yet",
    waits_for=None,
    step=0,
    updates=0,
    position=0,
    mode=GuardMode.OBSERVE,
    armed=False,
    unarmed_because="nothing was heard of the learner yet",
    device="unknown",
    parameters=0,
    progressive_accuracy=None,
    probe_accuracy=None,
    probe=None,
    probe_stale=False,
    drift=False,
    breaker_open=False,
    vaccine_age=None,
    unvaccinated_because=None,
    sample_threshold=None,
    vetoes=0,
    rollbacks=0,
    checkpoint=None,
)


@dataclass(frozen=True, slots=True)
class _Known:
    """The newest word, and when it was said, by this process's steady clock."""

    word: Word
    at: float


class Subscriber:
    """A learner as seen from a replica: a thread follows what it publishes; use it in a ``with``.

    ``publication`` is swapped whole, and only for a newer one that was verified and built; it is None before the first.
    """

    def __init__(self, publications: Publications, *, device: str) -> None:
        self._publications = publications
        self._device = device
        self.publication: Publication | None = None
        self._version = 0
        self._refused = 0
        self._newest_at = 0.0  # when the publication was the learner's newest for certain
        self._known: _Known | None = None
        self._mark = 0
        self._reader: tuple[Recipe, Reader] | None = None
        self._failing = False
        self._stopping = threading.Event()
        self._awaited = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weir-subscriber", daemon=True)

    @property
    def status(self) -> LearnerStatus:
        """Where the learner stood when it last said so; not alive once it has been silent for too long."""
        known = self._known
        if known is None:
            return _SILENT
        silent = time.monotonic() - known.at
        if silent < LOST_SECONDS or not known.word.status.alive:
            return known.word.status
        return replace(known.word.status, alive=False, failure=f"nothing was heard of the learner for {silent:.0f} s")

    @property
    def staleness(self) -> float | None:
        """See ``Learner.staleness``."""
        return None if self.publication is None else max(0.0, time.monotonic() - self._newest_at)

    @property
    def learner_address(self) -> str | None:
        """Where the learner is found, None before its first word."""
        return self._known.word.address if self._known else None

    def attend(self) -> None:
        """See ``Learner.attend``."""
        self._awaited.set()

    def checkpoints(self) -> Sequence[CheckpointInfo]:
        """See ``Learner.checkpoints``; raises NotReady before the learner's first word."""
        if self._known is None:
            raise NotReady("nothing was heard of the learner yet; try again when /health/ready answers 200")
        return self._known.word.checkpoints

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._awaited.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._publications.wait(self._mark, WAIT_SECONDS):
                    self._listen()
                    self._breathe()
            except StorageFailed as error:
                if not self._failing:
                    logger.warning("nothing can be heard of the learner: %s", error)
                self._failing = True
                self._stopping.wait(WAIT_SECONDS)
            except WeirError as error:
                logger.error("%s", error)
            else:
                self._failing = False

    def _breathe(self) -> None:
        """Leave this process to its predictions for a while, unless somebody waits for what comes next."""
        if self._awaited.wait(BREATH_SECONDS):
            self._awaited.clear()

    def _listen(self) -> None:
        """Take in the newest word, and the model beside it if that is new."""
        heard = self._publications.heard()
        if heard is None:
            return
        self._mark = heard.mark
        now = time.monotonic()
        said = word.read(heard.word)
        if heard.version > max(self._version, self._refused):
            self._take(now, heard)
        if said.current and self._version == heard.version:
            self._newest_at = now - heard.age
        self._known = _Known(said, now - heard.age)  # last: whoever waits for it then meets the model

    def _take(self, now: float, heard: Heard) -> None:
        """Swap the newest model in; one that is damaged or cannot be built is refused, once and aloud."""
        found = self._publications.newest()
        if found is None:
            return
        try:
            publication = self._built(word.unpack(found))
        except Exception as error:  # whatever a foreign model raises: the one before stays
            self._refused = found.version
            logger.error("a published model is refused, the one before stays: %s", error)
            return
        self._newest_at, self._version = now - heard.version_age, found.version
        self.publication = publication
        logger.debug("predicts with step %d, version %d", publication.step, found.version)

    def _built(self, model: Model) -> Publication:
        if self._reader is None or self._reader[0] != model.recipe:
            self._reader = (model.recipe, Reader(model.recipe, device=self._device))
        copy = self._reader[1].copy(model.weights)
        return Publication(model.step, model.recipe, copy, copy.weights)
