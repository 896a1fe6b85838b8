"""The stores that faults are injected into. A new one joins by its class in ``BACKENDS``."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from weir import config, folder
from weir.stores.base import Stores


class Backend(Protocol):
    """Where one service keeps its data: a folder, and perhaps a server beside it."""

    @property
    def data(self) -> Path:
        """The data folder."""

    @property
    def environment(self) -> dict[str, str]:
        """The settings that name it."""

    def stores(self) -> AbstractContextManager[Stores]:
        """The stores, opened beside the service that uses them or after it."""

    def copy(self, place: Path) -> AbstractContextManager[Backend]:
        """Another one, with the first checkpoint and the very same log entries, and nothing else."""

    def outlive_lease(self) -> None:
        """Let the time go by, or be as if it had, for which a dead learner keeps others out."""


class SqliteBackend:
    """All in one folder, begun as a copy of ``template``."""

    def __init__(self, place: Path, template: Path) -> None:
        self._template = template
        self.data = place
        shutil.copytree(template, place)

    @property
    def environment(self) -> dict[str, str]:
        """See ``Backend.environment``."""
        return {"WEIR_DATA": str(self.data)}

    def stores(self) -> AbstractContextManager[Stores]:
        """See ``Backend.stores``."""
        return folder.stores(config.load(data=self.data))

    @contextmanager
    def copy(self, place: Path) -> Iterator[Backend]:
        """See ``Backend.copy``."""
        other = SqliteBackend(place, self._template)
        with sqlite3.connect(other.data / folder.DATABASE) as connection:
            connection.execute("ATTACH ? AS source", (str(self.data / folder.DATABASE),))
            connection.execute("INSERT INTO log SELECT * FROM source.log")
        connection.close()
        yield other

    def outlive_lease(self) -> None:
        """See ``Backend.outlive_lease``: a lock on a file ends with its process."""


class Opener(Protocol):
    """Opens a backend in a place of its own, as a copy of the data folder ``template``; closed on leaving."""

    def __call__(self, place: Path, template: Path) -> AbstractContextManager[Backend]: ...


@contextmanager
def sqlite(place: Path, template: Path) -> Iterator[Backend]:
    """The embedded stores."""
    yield SqliteBackend(place, template)


BACKENDS: dict[str, Opener] = {"sqlite": sqlite}
