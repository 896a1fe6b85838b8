"""The stores that faults are injected into. A new one joins by its class in ``BACKENDS``."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from tests.redis_server import RedisServer, running

from weir import config, folder
from weir.stores.base import Stores
from weir.stores.redis import log_scripts


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
            for table in ("log", "segment"):
                connection.execute(f"INSERT INTO {table} SELECT * FROM source.{table}")
        connection.close()
        payloads = f"{folder.DATABASE}-payloads"
        if (self.data / payloads).exists():
            shutil.copytree(self.data / payloads, other.data / payloads, dirs_exist_ok=True)
        yield other

    def outlive_lease(self) -> None:
        """See ``Backend.outlive_lease``: a lock on a file ends with its process."""


class RedisBackend:
    """Log, journal and quarantine on a server, the checkpoints in a folder begun as a copy of ``template``."""

    def __init__(self, place: Path, template: Path, server: RedisServer, *, url: str, prefix: str = "weir") -> None:
        self._template = template
        self._url = url
        self._prefix = prefix
        self.server = server
        self.data = place
        shutil.copytree(template, place, ignore=shutil.ignore_patterns(f"{folder.DATABASE}*"))

    @property
    def environment(self) -> dict[str, str]:
        """See ``Backend.environment``."""
        return {"WEIR_DATA": str(self.data), "WEIR_REDIS_URL": self._url, "WEIR_REDIS_PREFIX": self._prefix}

    def stores(self) -> AbstractContextManager[Stores]:
        """See ``Backend.stores``."""
        return folder.stores(config.load(data=self.data, redis_url=self._url, redis_prefix=self._prefix))

    @contextmanager
    def copy(self, place: Path) -> Iterator[Backend]:
        """See ``Backend.copy``."""
        other = RedisBackend(place, self._template, self.server, url=self._url, prefix="straight")
        with self.server.client() as client:
            for name in ("schema", *log_scripts.KEYS):
                client.copy(self._key(name), other._key(name))
        yield other

    def outlive_lease(self) -> None:
        """See ``Backend.outlive_lease``: it ends here as it would by itself, some seconds later."""
        with self.server.client() as client:
            client.delete(self._key("lease"))

    def _key(self, name: str) -> str:
        return f"{{{self._prefix}}}:{name}"


class Opener(Protocol):
    """Opens a backend in a place of its own, as a copy of the data folder ``template``; closed on leaving."""

    def __call__(self, place: Path, template: Path) -> AbstractContextManager[Backend]: ...


@contextmanager
def sqlite(place: Path, template: Path) -> Iterator[Backend]:
    """The embedded stores."""
    yield SqliteBackend(place, template)


@contextmanager
def redis(place: Path, template: Path) -> Iterator[Backend]:
    """The shared stores, on a server of their own."""
    with running() as server:
        yield RedisBackend(place, template, server, url=server.url)


BACKENDS: dict[str, Opener] = {"sqlite": sqlite, "redis": redis}
