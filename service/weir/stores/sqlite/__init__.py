"""The embedded stores: log, journal, quarantine, dead letters, audit and keys in one SQLite file.

Larger payloads of the log lie in a folder beside it, which belongs to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from weir.stores.base import Durability
from weir.stores.sqlite import audit, dead_letters, journal, keys, log, quarantine, upkeep
from weir.stores.sqlite.audit import SqliteAudit
from weir.stores.sqlite.database import Database
from weir.stores.sqlite.dead_letters import SqliteDeadLetters
from weir.stores.sqlite.journal import SqliteJournal
from weir.stores.sqlite.keys import SqliteKeys
from weir.stores.sqlite.log import Bounds, SqliteLog
from weir.stores.sqlite.quarantine import SqliteQuarantine

_RELAXED = "WEIR_SQLITE_DURABILITY is relaxed: a crash of the machine loses what it had not written yet"


class Sqlite:
    """Opens or creates the file at ``path`` (its folder must exist); close it, or use it in a ``with``.

    Every write is in the file and synced when its method returns; threads that write at the same time share one
    transaction. A producer may have ``producer_max_batches`` and ``producer_max_bytes`` waiting (default: as many as
    there may be in all). ``relaxed`` answers once a write has left the process, and
    says so. ``clock`` gives Unix seconds; ``key_retention`` (how long idempotency keys are kept),
    ``retry_after`` (what a full log answers) and ``busy_timeout`` (how long to wait for another process) are seconds.
    Every method may raise StorageFailed: disk full, file locked by another process, closed.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_batches: int = 10_000,
        max_bytes: int = 1 << 30,
        producer_max_batches: int | None = None,
        producer_max_bytes: int | None = None,
        key_retention: float = 48 * 3600.0,
        retry_after: float = 1.0,
        busy_timeout: float = 5.0,
        relaxed: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        schema = [
            *(*log.SCHEMA, *journal.SCHEMA, *quarantine.SCHEMA),
            *(*dead_letters.SCHEMA, *audit.SCHEMA, *keys.SCHEMA),
        ]
        self._database = Database(
            path,
            schema,
            changes=log.CHANGES,
            recover=upkeep.recover,
            busy_timeout=busy_timeout,
            relaxed=relaxed,
        )
        self.log = SqliteLog(
            self._database,
            Bounds(max_batches, max_bytes, producer_max_batches or max_batches, producer_max_bytes or max_bytes),
            key_retention=key_retention,
            retry_after=retry_after,
            clock=clock,
        )
        self.journal = SqliteJournal(self._database)
        self.quarantine = SqliteQuarantine(self._database)
        self.dead_letters = SqliteDeadLetters(self._database)
        self.audit = SqliteAudit(self._database)
        self.keys = SqliteKeys(self._database)
        self.durability = Durability((_RELAXED,) if relaxed else ())

    def owned(self) -> AbstractContextManager[None]:
        """See ``Stores.owned``; the lock on the data folder, which the file lies in, keeps other learners out."""
        return nullcontext()

    def close(self) -> None:
        """Close the file; later calls raise StorageFailed."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
