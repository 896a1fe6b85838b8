"""What becomes of segments that nobody appends to: mended after a crash, brought onto the disk, deleted in the end."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from weir.errors import StorageFailed
from weir.stores.base import EntryKind
from weir.stores.sqlite.database import Database
from weir.stores.sqlite.segments import Place, Segments

_log = logging.getLogger("weir.stores")
# Each segment, how much of it is known to be on the disk, and how far it is referred to (0: not at all).
_ENDS = """SELECT number, synced, coalesce(
    (SELECT start + length FROM log WHERE segment = number ORDER BY start DESC LIMIT 1), 0
) FROM segment"""


def recover(segments: Segments, connection: sqlite3.Connection, new: bool) -> None:
    """Bring files and rows together, in the transaction that opens the database; ``new``: it has had no segment yet.

    Bytes that no entry refers to go. Entries whose bytes did not get to the disk go as well: those of a relaxed
    database, or of a durable one those that it had not acknowledged. Raises StorageFailed when the files cannot be
    this database's.
    """
    files = segments.numbers()
    if new and files:
        raise StorageFailed(
            f"{segments.folder}: it has the payloads of another database, expected none beside a new or an older one: "
            "put back the database that they belong to, or move this folder away"
        )
    rows = connection.execute(_ENDS).fetchall()
    for number in set(files) - {number for number, _, _ in rows}:
        with segments.deserted(number) as free:
            if free:
                segments.file(number).unlink()
    for number, synced, end in rows:
        with segments.deserted(number) as free:
            if free:
                _mend(segments, connection, number, synced, end)


def keep(database: Database) -> None:
    """Bring segments onto the disk as far as they are not there yet, and delete those that no entry refers to."""
    with database.read() as connection:
        rows = connection.execute(_ENDS).fetchall()
    late = [(end, number) for number, synced, end in rows if synced < end]
    database.segments.on_disk([number for _, number in late])
    if late:
        database.write(partial(_note, late), durable=False)
    for number in (number for number, _, end in rows if not end):
        with database.segments.deserted(number) as free:
            if free:
                database.write(partial(_drop, number))
                database.segments.file(number).unlink(missing_ok=True)


def _mend(segments: Segments, connection: sqlite3.Connection, number: int, synced: int, end: int) -> None:
    """One segment after its process has ended, perhaps by a crash."""
    file = segments.file(number)
    if not end:
        _drop(number, connection)
        file.unlink(missing_ok=True)
    elif synced and not file.exists():
        _log.error("%s is missing: the batches in it cannot be read: put it back", file)
    else:
        if synced < end:
            _lose(connection, _torn(segments, connection, number, synced), file)
        _cut(segments, connection, number, end)


def _torn(segments: Segments, connection: sqlite3.Connection, number: int, synced: int) -> list[int]:
    """The positions of entries whose bytes did not get to the disk."""
    query = "SELECT position, segment, start, length, checksum FROM log WHERE segment = ? AND start >= ?"
    torn = []
    for position, *place in connection.execute(query, (number, synced)):
        try:
            segments.read(Place(*place))
        except StorageFailed:
            torn.append(position)
    return torn


def _cut(segments: Segments, connection: sqlite3.Connection, number: int, end: int) -> None:
    """What is left lies on the disk, and nothing comes after it."""
    file = segments.file(number)
    if file.exists():
        if file.stat().st_size > end:
            os.truncate(file, end)
        segments.on_disk([number])
    connection.execute("DELETE FROM stale WHERE segment = ? AND start >= ?", (number, end))
    _note([(end, number)], connection)


def _lose(connection: sqlite3.Connection, positions: Sequence[int], file: Path) -> None:
    """Forget entries, and what was decided from the first of them on; their positions are not given again."""
    if not positions:
        return
    _log.error("%s: a crash of the machine took the bytes of %d entries: they are dropped", file, len(positions))
    rows = [(position,) for position in positions]
    connection.executemany("DELETE FROM log WHERE position = ?", rows)
    connection.executemany("DELETE FROM idempotency WHERE position = ?", rows)
    past = "(end_position, end_offset) > (?, 0)"
    first = (min(positions) - 1,)
    connection.execute(f"DELETE FROM run WHERE decision IN (SELECT number FROM decision WHERE {past})", first)
    connection.execute(f"DELETE FROM decision WHERE {past}", first)
    connection.execute("DELETE FROM waiting")
    connection.execute(
        "INSERT INTO waiting SELECT producer, count(*), sum(bytes) FROM log "
        "WHERE position > (SELECT consumed FROM reading) AND kind = ? GROUP BY producer",
        (EntryKind.BATCH,),
    )


def _note(ends: Sequence[tuple[int, int]], connection: sqlite3.Connection) -> None:
    connection.executemany("UPDATE segment SET synced = max(synced, ?) WHERE number = ?", ends)


def _drop(number: int, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM segment WHERE number = ?", (number,))
    connection.execute("DELETE FROM stale WHERE segment = ?", (number,))
