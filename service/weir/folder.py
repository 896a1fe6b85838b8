"""The data folder: where everything lies that must survive a restart, and who may use it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import SecretStr

from weir.config import Settings
from weir.errors import Conflict, InvalidSetting, StorageFailed
from weir.stores.base import Publications, Shared, Stores
from weir.stores.disk import CheckpointFolder
from weir.stores.redis import Redis
from weir.stores.sqlite import Sqlite

DATABASE = "weir.db"
CHECKPOINTS = "checkpoints"
CANDIDATES = "candidates"
CANDIDATES_KEPT = 3
LOCK = "lock"
EXAMPLE = "EXAMPLE"
DAY = 86_400.0


@contextmanager
def stores(settings: Settings) -> Iterator[Stores]:
    """The stores in the data folder, which is made if it is missing; raises StorageFailed."""
    folder = _made(settings.data)
    keep_seconds = settings.checkpoints_max_age_days * DAY
    checkpoints = CheckpointFolder(folder / CHECKPOINTS, settings.checkpoints_kept, keep_seconds=keep_seconds)
    candidates = CheckpointFolder(folder / CANDIDATES, CANDIDATES_KEPT)
    with _database(settings, folder) as database:
        yield Stores(
            **_parts(database),
            publications=database.publications if isinstance(database, Redis) else None,
            checkpoints=checkpoints,
            candidates=candidates,
            owned=database.owned,
        )


@contextmanager
def shared(settings: Settings) -> Iterator[tuple[Shared, Publications]]:
    """What replicas share in Redis, without any folder, and what the learner publishes there; raises StorageFailed."""
    with _redis(settings) as database:
        yield Shared(**_parts(database), publications=database.publications), database.publications


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Be the only learner of this data folder: two of them would each learn the whole log. Raises Conflict."""
    handle = os.open(_made(path) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Conflict(f"{path} is in use by another weir process: stop that one, or name another folder") from None
    finally:
        os.close(handle)


def label_example(path: Path, dataset: str) -> None:
    """Note in the data folder that its model was burned in on a bundled data set, and is for trying things out."""
    (path / EXAMPLE).write_text(
        f"The model here was burned in on the bundled example {dataset!r}: it is for trying things out.\n"
        "For a model of your own begin with another folder.\n"
    )


def is_example(path: Path) -> bool:
    """Whether the model in this data folder is an example."""
    return (path / EXAMPLE).exists()


def _parts(database: Sqlite | Redis) -> dict[str, Any]:
    """What every database has."""
    names = ("log", "journal", "quarantine", "dead_letters", "audit", "keys")
    return {name: getattr(database, name) for name in names} | {"durability": lambda: database.durability}


def _database(settings: Settings, folder: Path) -> Sqlite | Redis:
    if settings.redis_url is None:
        relaxed = settings.sqlite_durability == "relaxed"
        return Sqlite(folder / DATABASE, relaxed=relaxed, **_bounds(settings))
    return _redis(settings)


def _redis(settings: Settings) -> Redis:
    assert settings.redis_url is not None
    url = _redis_url(settings.redis_url, settings.redis_password_file)
    return Redis(url, prefix=settings.redis_prefix, **_bounds(settings))


def _bounds(settings: Settings) -> dict[str, Any]:
    bounds = {name: getattr(settings, f"log_{name}") for name in ("max_batches", "max_bytes")}
    return bounds | {name: getattr(settings, name) for name in ("producer_max_batches", "producer_max_bytes")}


def _redis_url(url: SecretStr, password_file: Path | None) -> str:
    """The URL with the password of the file in it, if there is one."""
    plain = url.get_secret_value()
    if password_file is None:
        return plain
    parts = urlsplit(plain)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(_secret(password_file), safe='')}@{host}"))


def _secret(path: Path) -> str:
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting("WEIR_REDIS_PASSWORD_FILE", f"{path} ({error})", "a text file with one password") from None
    if not secret:
        raise InvalidSetting("WEIR_REDIS_PASSWORD_FILE", f"{path} (empty)", "a text file with one password")
    return secret


def _made(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror}: name a folder that can be made with WEIR_DATA") from error
    return path
