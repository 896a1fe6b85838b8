"""Checkpoints on a disk: one folder each, written whole or not at all, and verified when read."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from weir.errors import DamagedCheckpoint, InvalidSetting, NotFound, StorageFailed, StorageFull
from weir.stores.base import CheckpointInfo, Cursor
from weir.stores.files import NO_SPACE, sync_folder
from weir.types import State

_log = logging.getLogger(__name__)

_FORMAT = 3  # 2: the guard's vaccine, consensus and breaker; 3: lineage, environment and the command it answers
_TENSORS = "tensors.safetensors"
_STATE = "state.json"
# The counter comes first: after a rollback the newest checkpoint may have an older step.
_ID = re.compile(r"(\d{8,18})-(\d{1,18})", re.ASCII)
_UNFINISHED = ".unfinished-"
_LEAST = 2  # whatever their age: should the newest be damaged, there is one before it
_ROOM = 1 << 20  # bytes; with less a file system counts as full


@dataclass(frozen=True, slots=True)
class _Content:
    """What ``state.json`` holds."""

    info: CheckpointInfo
    tensors_sha256: str
    tensors_bytes: int
    values: Mapping[str, Any]


class CheckpointFolder:
    """Checkpoints under ``path`` (made if missing): the newest ``keep``, but for those older than ``keep_seconds``.

    What retention no longer keeps is deleted by each save; the newest two always stay. ``path/<id>/`` holds
    ``tensors.safetensors`` and ``state.json``: the values, the header, and the SHA-256 of both files. Ids sort by
    age. Every method may raise StorageFailed when the disk refuses, StorageFull when it is full.
    """

    def __init__(
        self,
        path: Path,
        keep: int = 5,
        *,
        keep_seconds: float = math.inf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if keep < 1:
            raise InvalidSetting("keep", keep, "at least 1 checkpoint")
        self._path = path
        self._keep = keep
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._lock = threading.RLock()  # a checkpoint is not deleted while another thread reads it
        with _translated(path):
            path.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent)
            self._sweep()

    def save(self, state: State, *, step: int, cursor: Cursor, at: float, reason: str) -> CheckpointInfo:
        """See ``Checkpoints.save``."""
        with self._lock, _translated(self._path):
            newest = max((_counter(known) for known in self._ids()), default=0)
            name = f"{newest + 1:08d}-{step}"
            header = {"id": name, "step": step, "cursor": cursor, "created_at": at, "reason": reason}
            with self._unfinished() as folder:
                _write(folder, header, state)
                folder.rename(self._path / name)
            sync_folder(self._path)
            self._retain()
            return self._content(name).info

    def all(self) -> list[CheckpointInfo]:
        """See ``Checkpoints.all``; checks the headers and the sizes, not the checksums of the tensors."""
        found = []
        for known in self._ids():
            try:
                found.append(self._content(known).info)
            except DamagedCheckpoint:
                continue
        return found

    def load(self, id: str) -> tuple[CheckpointInfo, State]:
        """See ``Checkpoints.load``; the tensors are on the CPU and the caller's own."""
        with self._lock:
            self._known(id)
            content = self._content(id)
            file = self._path / id / _TENSORS
            data = _read(file)
        if hashlib.sha256(data).hexdigest() != content.tensors_sha256:
            raise DamagedCheckpoint(f"{file}: its SHA-256 is not the one in {_STATE}")
        try:
            return content.info, State(load(data), content.values)
        except SafetensorError as error:
            raise DamagedCheckpoint(f"{file}: {error}") from error

    def newest(self) -> tuple[CheckpointInfo, State] | None:
        """See ``Checkpoints.newest``."""
        with self._lock:
            known = self._ids()
            for name in reversed(known):
                try:
                    return self.load(name)
                except DamagedCheckpoint as error:
                    _log.warning("checkpoint %s is damaged and passed over: %s", name, error)
        if known:
            raise DamagedCheckpoint(
                f"{self._path}: none of its {len(known)} checkpoints verifies: restore one from a copy, "
                "or move them away to begin anew"
            )
        return None

    def _ids(self) -> list[str]:
        """The ids of what is there, oldest first."""
        with _translated(self._path):
            return sorted(filter(_ID.fullmatch, os.listdir(self._path)), key=_counter)

    def _content(self, id: str) -> _Content:
        """What ``state.json`` holds, verified; of the tensors only the size is."""
        file, tensors = self._path / id / _STATE, self._path / id / _TENSORS
        try:
            content = _parse(file)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpoint(f"{file}: not the layout of a checkpoint: {error!r}") from error
        if content.info.id != id:
            raise DamagedCheckpoint(f"{file}: expected the checkpoint {id}, got {content.info.id}: it was renamed")
        if _size(tensors) != content.tensors_bytes:
            raise DamagedCheckpoint(f"{tensors}: expected {content.tensors_bytes} bytes, got {_size(tensors)}")
        return content

    def _known(self, id: str) -> None:
        if not _ID.fullmatch(id) or not (self._path / id).is_dir():
            raise NotFound("checkpoint", id)

    def _retain(self) -> None:
        known = self._ids()
        oldest = self._clock() - self._keep_seconds
        for place, name in enumerate(reversed(known)):
            if place >= self._keep or (place >= _LEAST and self._created(name) < oldest):
                try:
                    self._delete(name)
                except OSError as error:
                    _log.warning("checkpoint %s could not be deleted: %s", name, error)

    def _created(self, id: str) -> float:
        try:
            return self._content(id).info.created_at
        except DamagedCheckpoint:
            return math.inf  # its age is not known: it goes by the count alone

    def _delete(self, id: str) -> None:
        with self._unfinished() as folder:
            # Moved first: whatever happens while its files go, no half of a checkpoint is left under its id.
            (self._path / id).rename(folder / id)

    @contextmanager
    def _unfinished(self) -> Iterator[Path]:
        """A folder that is gone afterwards, unless it was renamed; locked, so that no other process sweeps it."""
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._path))
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    def _sweep(self) -> None:
        """Delete what a crash left behind; a folder that is locked is still being written."""
        for folder in self._path.glob(f"{_UNFINISHED}*"):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            except BlockingIOError:
                continue
            finally:
                os.close(lock)


def _write(folder: Path, header: Mapping[str, Any], state: State) -> None:
    """Both files and their folder, synced."""
    file = folder / _TENSORS
    save_file({name: _plain(tensor) for name, tensor in state.tensors.items()}, file)
    with file.open("rb") as written:
        sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        os.fsync(written.fileno())
    content = {
        "format": _FORMAT,
        "header": header,
        "tensors": {"sha256": sha256, "bytes": _size(file)},
        "values": dict(state.values),
    }
    with (folder / _STATE).open("w", encoding="utf-8") as text:
        json.dump({"sha256": _digest(content), **content}, text)
        text.flush()
        os.fsync(text.fileno())
    sync_folder(folder)


def _parse(file: Path) -> _Content:
    raw = _read(file)
    content = json.loads(raw)
    digest = content.pop("sha256")
    if digest != _digest(content):
        raise DamagedCheckpoint(f"{file}: its SHA-256 is not the one it holds")
    if content["format"] != _FORMAT:
        raise DamagedCheckpoint(f"{file}: expected format {_FORMAT}, got {content['format']}")
    header, tensors = dict(content["header"]), content["tensors"]
    cursor = Cursor(*header.pop("cursor"))
    info = CheckpointInfo(**header, cursor=cursor, bytes=tensors["bytes"] + len(raw), digest=digest)
    return _Content(info, tensors["sha256"], tensors["bytes"], content["values"])


def _plain(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own, in order: the file format takes no others."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content as JSON, in its own order and without spaces."""
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _counter(id: str) -> int:
    return int(id.partition("-")[0])


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DamagedCheckpoint(f"{file}: cannot be read: {error.strerror}") from error


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise DamagedCheckpoint(f"{file}: cannot be read: {error.strerror}") from error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in NO_SPACE
        cure = "free space on its disk" if full else "check the disk"
        raise (StorageFull if full else StorageFailed)(f"{path}: {error}: {cure}") from error
    except SafetensorError as error:
        raise (StorageFull if _full(path) else StorageFailed)(f"{path}: {error}: check the disk") from error


def _full(path: Path) -> bool:
    """Whether there is no space, as far as can be told; the format's own writer does not say why it failed."""
    try:
        return shutil.disk_usage(path).free < _ROOM
    except OSError:
        return False
