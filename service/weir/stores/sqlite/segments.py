"""Payloads beside the database: files that only grow, and that take part in its transactions."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from weir.errors import StorageFailed, StorageFull
from weir.stores.files import NO_SPACE, sync_folder

# ``synced``: so many bytes were on the disk before the database said so. What lies past them is looked at when the
# file is opened again: a sync and the commit it belongs to run at the same time. ``stale`` is what no entry refers to
# any more, until its segment goes or an erasure overwrites it.
SCHEMA = (
    "CREATE TABLE segment (number INTEGER PRIMARY KEY AUTOINCREMENT, synced INTEGER NOT NULL) STRICT",
    """CREATE TABLE stale (
        segment INTEGER NOT NULL,
        start INTEGER NOT NULL,
        length INTEGER NOT NULL,
        PRIMARY KEY (segment, start)
    ) STRICT, WITHOUT ROWID""",
)
SEGMENT_BYTES = 64 * 1024 * 1024
# From here on a file of their own is cheaper than the pages that SQLite writes twice: benchmarks/performance-notes.md.
OUTSIDE_BYTES = 64 * 1024
_WRITTEN_AT_ONCE = 1024  # buffers: what the system takes in one call
_ZEROS = bytes(1024 * 1024)


class Place(NamedTuple):
    """Where a payload lies, and the CRC-32 of its bytes."""

    segment: int
    start: int
    length: int
    checksum: int


class _Tail:
    """The segment that this process appends to, locked for as long as it does so."""

    def __init__(self, file: Path, number: int) -> None:
        self.file = file
        self.number = number
        self.end = 0
        self._new = True
        self._handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def write(self, payloads: Sequence[bytes]) -> None:
        """All of them after what is committed."""
        at, left = self.end, iter(payloads)
        while buffers := [memoryview(payload) for payload in islice(left, _WRITTEN_AT_ONCE)]:
            while buffers:
                written = os.pwritev(self._handle, buffers, at)
                at += written
                buffers = _rest(buffers, written)

    def sync(self) -> None:
        """What is written, and the name of the file, onto the disk."""
        os.fdatasync(self._handle)
        if self._new:
            sync_folder(self.file.parent)
            self._new = False

    def cut(self) -> None:
        """Back to what is committed; without any of that the file goes."""
        if self.end:
            os.ftruncate(self._handle, self.end)
        else:
            self.file.unlink()

    def close(self) -> None:
        """Let go of it."""
        os.close(self._handle)


class Segments:
    """The files in ``folder``, numbered; a process appends to one of its own, until that has SEGMENT_BYTES.

    What a transaction takes is written once, before it commits, and synced while it does. Everything but ``read`` is
    for whoever has the turn to write. Raises StorageFailed (StorageFull without space).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tail: _Tail | None = None
        self._taken: list[bytes] = []
        self._taken_bytes = 0
        self._synced: dict[int, int] = {}  # what the database is yet to be told
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix="weir-sync")

    def file(self, number: int) -> Path:
        """The file of a segment."""
        return self.folder / f"{number:08d}"

    def place(self, connection: sqlite3.Connection, payload: bytes) -> Place | None:
        """Where a payload would come to lie; None for a small one, which stays in its row."""
        if len(payload) < OUTSIDE_BYTES:
            return None
        start = self._taken_bytes + (self._tail.end if self._tail else 0)
        return Place(self._number(connection), start, len(payload), zlib.crc32(payload))

    def take(self, payload: bytes) -> None:
        """Write it with this transaction, at its place; nothing that may fail comes after this in a job."""
        self._taken.append(payload)
        self._taken_bytes += len(payload)

    def forget(self) -> None:
        """Take nothing yet: a transaction begins."""
        self._taken, self._taken_bytes = [], 0

    @contextmanager
    def committing(self, connection: sqlite3.Connection, *, synced: bool) -> Iterator[None]:
        """Around the commit: what was taken is in its file before, and on the disk afterwards if ``synced``."""
        if not self._taken:
            yield
            return
        with self._translated():
            tail = self._written(connection)
            sync = self._syncing.submit(tail.sync) if synced else None
            try:
                yield
            except BaseException as error:
                self._give_up(tail, sync, cut=getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL)
                raise
            self._committed(tail, sync)

    def read(self, place: Place) -> bytes:
        """The payload at a place; raises StorageFailed unless it is what was written there."""
        file, cure = self.file(place.segment), "put a sound copy of the file in its place"
        try:
            with file.open("rb", buffering=0) as segment:
                payload = os.pread(segment.fileno(), place.length, place.start)
        except OSError as error:
            raise StorageFailed(f"{file}: at offset {place.start}: {error.strerror}: {cure}") from error
        checksum = zlib.crc32(payload)
        if (len(payload), checksum) == (place.length, place.checksum):
            return payload
        raise StorageFailed(
            f"{file}: at offset {place.start}: expected {place.length} bytes with the CRC-32 {place.checksum:08x}, "
            f"got {len(payload)} with {checksum:08x}: {cure}"
        )

    def wipe(self, connection: sqlite3.Connection) -> None:
        """Overwrite on the disk all that is stale."""
        rows = connection.execute("SELECT segment, start, length FROM stale ORDER BY segment").fetchall()
        with self._translated():
            for number in dict.fromkeys(number for number, _, _ in rows):
                spans = [(start, length) for of, start, length in rows if of == number]
                _overwrite(self.file(number), spans)
        connection.executemany("DELETE FROM stale WHERE (segment, start, length) = (?, ?, ?)", rows)

    def on_disk(self, numbers: Sequence[int]) -> None:
        """Bring segments onto the disk as they are now."""
        with self._translated():
            for number in numbers:
                handle = os.open(self.file(number), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(handle)
                finally:
                    os.close(handle)

    def numbers(self) -> list[int]:
        """Those that there are files of."""
        with self._translated():
            return sorted(int(file.name) for file in self.folder.glob("[0-9]*")) if self.folder.exists() else []

    @contextmanager
    def deserted(self, number: int) -> Iterator[bool]:
        """Whether no process appends to a segment: then none ever will."""
        try:
            handle = os.open(self.file(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield True
            return
        try:
            yield _locked(handle)
        finally:
            os.close(handle)

    def close(self) -> None:
        """Close the file that is appended to."""
        self._syncing.shutdown()
        if self._tail:
            self._retire(self._tail)

    def _number(self, connection: sqlite3.Connection) -> int:
        """Of the segment that this transaction's bytes go to."""
        if self._tail:
            return self._tail.number
        row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segment'").fetchone()
        return int(row[0]) + 1 if row else 1

    def _written(self, connection: sqlite3.Connection) -> _Tail:
        """The segment, with what was taken at its end."""
        for number, size in self._synced.items():
            connection.execute("UPDATE segment SET synced = ? WHERE number = ?", (size, number))
        tail = self._tail or self._begun(connection)
        try:
            tail.write(self._taken)
        except OSError:
            self._give_up(tail, None, cut=True)
            raise
        return tail

    def _begun(self, connection: sqlite3.Connection) -> _Tail:
        number = self._number(connection)
        if not self.folder.exists():
            self.folder.mkdir(mode=0o700)
            sync_folder(self.folder.parent)
        connection.execute("INSERT INTO segment VALUES (?, 0)", (number,))
        self._tail = _Tail(self.file(number), number)
        return self._tail

    def _committed(self, tail: _Tail, sync: Future[None] | None) -> None:
        tail.end += self._taken_bytes
        self._synced.clear()
        try:
            if sync:
                sync.result()
                self._synced[tail.number] = tail.end
        except OSError:  # nobody knows what of it is on the disk: what comes next goes elsewhere
            self._retire(tail)
            raise
        if tail.end >= SEGMENT_BYTES:
            self._retire(tail)

    def _give_up(self, tail: _Tail, sync: Future[None] | None, *, cut: bool) -> None:
        """After a commit that failed: without ``cut`` it may yet prove to have succeeded, and its bytes stay."""
        with suppress(OSError):
            if sync:
                sync.result()
            if cut:
                tail.cut()
        if not cut or not tail.end:
            self._retire(tail)

    def _retire(self, tail: _Tail) -> None:
        tail.close()
        self._tail = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in NO_SPACE
            cure = "free space on its disk" if full else "check the disk, or put a sound copy in its place"
            raise (StorageFull if full else StorageFailed)(
                f"{error.filename or self.folder}: {error}: {cure}"
            ) from error


def _locked(handle: int) -> bool:
    """Whether nobody else has the lock, which is had now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _rest(buffers: list[memoryview], written: int) -> list[memoryview]:
    """What is left of buffers of which so many bytes are written."""
    for at, buffer in enumerate(buffers):
        if written < len(buffer):
            return [buffer[written:], *buffers[at + 1 :]]
        written -= len(buffer)
    return []


def _overwrite(file: Path, spans: Sequence[tuple[int, int]]) -> None:
    """Zeros over these (start, length), on the disk; a file that is gone has nothing to be overwritten."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for start, length in spans:
            for at in range(0, length, len(_ZEROS)):
                os.pwrite(handle, _ZEROS[: length - at], start + at)
        os.fsync(handle)
    finally:
        os.close(handle)
