"""The journal in SQLite: one row per decision, and one per run of a batch's neighbouring samples in it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from weir.stores.base import Cursor, Decision, JournalledSample, Lineage
from weir.stores.bell import Bell
from weir.stores.sqlite.database import Database
from weir.stores.verdicts import pack, unpack
from weir.types import SampleRef, SampleVerdict

SCHEMA = (
    """CREATE TABLE decision (
        number INTEGER PRIMARY KEY,
        step INTEGER NOT NULL,
        start_position INTEGER NOT NULL,
        start_offset INTEGER NOT NULL,
        end_position INTEGER NOT NULL,
        end_offset INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        vetoed INTEGER NOT NULL,
        command TEXT,
        result TEXT NOT NULL,
        UNIQUE (start_position, start_offset)
    ) STRICT""",
    "CREATE INDEX decision_command ON decision (command) WHERE command IS NOT NULL",
    """CREATE TABLE run (
        decision INTEGER NOT NULL,
        ordinal INTEGER NOT NULL,
        batch TEXT NOT NULL,
        first INTEGER NOT NULL,
        samples INTEGER NOT NULL,
        verdicts TEXT NOT NULL,
        PRIMARY KEY (decision, ordinal)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX run_batch ON run (batch)",
    # Rolled back is what lies in no range; what comes after the last step that is ruled on is in the weights.
    """CREATE TABLE lineage (
        first_step INTEGER NOT NULL,
        last_step INTEGER NOT NULL,
        PRIMARY KEY (first_step, last_step)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE ruled (one INTEGER PRIMARY KEY CHECK (one = 1), last_step INTEGER NOT NULL) STRICT",
    "INSERT INTO ruled VALUES (1, 0)",
)


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring samples of one batch: the first one's index, and their verdicts."""

    batch: str
    first: int
    verdicts: list[SampleVerdict]


class SqliteJournal:
    """Knows a decision by the cursor it starts at."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bell = Bell()

    def record(self, decision: Decision) -> None:
        """See ``Journal.record``."""
        row = (
            *(decision.step, *decision.start, *decision.end, decision.updated, decision.vetoed),
            *(decision.command, json.dumps(dict(decision.result))),
        )
        runs = [(run.batch, run.first, len(run.verdicts), pack(run.verdicts)) for run in _runs(decision)]
        self._database.write(lambda connection: _insert(connection, row, runs))
        self._bell.ring()

    def after(self, cursor: Cursor) -> list[Decision]:
        """See ``Journal.after``."""
        query = """
            SELECT decision.*, run.batch, run.first, run.verdicts
            FROM decision LEFT JOIN run ON run.decision = decision.number
            WHERE (start_position, start_offset) >= (?, ?)
            ORDER BY start_position, start_offset, run.ordinal"""
        with self._database.read() as connection:
            rows = connection.execute(query, cursor)
            return [_decision(list(group)) for _, group in groupby(rows, key=lambda row: row[0])]

    def samples(self, batch: str) -> list[JournalledSample]:
        """See ``Journal.samples``."""
        query = """
            SELECT step, first, verdicts, step <= (SELECT last_step FROM ruled) AND NOT EXISTS (
                SELECT 1 FROM lineage WHERE decision.step BETWEEN first_step AND last_step)
            FROM run JOIN decision ON decision.number = run.decision
            WHERE batch = ? ORDER BY start_position, start_offset, ordinal"""
        latest: dict[int, JournalledSample] = {}
        with self._database.read() as connection:
            for step, first, verdicts, rolled_back in connection.execute(query, (batch,)):
                for index, verdict in enumerate(unpack(verdicts), first):
                    latest[index] = JournalledSample(index, step, verdict, bool(rolled_back))
        return [latest[index] for index in sorted(latest)]

    def outcome(self, entry: str) -> Mapping[str, Any] | None:
        """See ``Journal.outcome``."""
        with self._database.read() as connection:
            row = connection.execute("SELECT result FROM decision WHERE command = ?", (entry,)).fetchone()
        result: dict[str, Any] | None = json.loads(row[0]) if row else None
        return result

    def wait(self, entry: str, samples: int, timeout: float) -> bool:
        """See ``Journal.wait``."""
        if samples == 0:
            return self._bell.wait(lambda: self.outcome(entry) is not None, timeout)
        return self._bell.wait(lambda: self._decided(entry) >= samples, timeout)

    def in_weights(self, lineage: Lineage, last: int) -> None:
        """See ``Journal.in_weights``."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM lineage")
            connection.executemany("INSERT INTO lineage VALUES (?, ?)", lineage)
            connection.execute("UPDATE ruled SET last_step = max(last_step, ?)", (last,))

        self._database.write(job)

    def trim(self, floor: int) -> None:
        """See ``Journal.trim``."""
        # Where a decision starts says nothing new, but there is an index on it: what stays is not gone through.
        gone = "SELECT number FROM decision WHERE start_position < ?1 AND (end_position, end_offset) <= (?1, 0)"

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(f"DELETE FROM run WHERE decision IN ({gone})", (floor,))
            connection.execute(f"DELETE FROM decision WHERE number IN ({gone})", (floor,))

        self._database.write(job)

    def _decided(self, batch: str) -> int:
        """How many of a batch's samples have a first decision: a release decides on a sample once more."""
        query = """
            SELECT coalesce(sum(samples), 0) FROM run JOIN decision ON decision.number = run.decision
            WHERE batch = ? AND command IS NULL"""
        with self._database.read() as connection:
            return int(connection.execute(query, (batch,)).fetchone()[0])


def _runs(decision: Decision) -> Iterator[_Run]:
    run: _Run | None = None
    for ref, verdict in zip(decision.refs, decision.verdicts, strict=True):
        if run is None or (run.batch, run.first + len(run.verdicts)) != (ref.batch, ref.index):
            if run is not None:
                yield run
            run = _Run(ref.batch, ref.index, [])
        run.verdicts.append(verdict)
    if run is not None:
        yield run


def _insert(connection: sqlite3.Connection, row: tuple[object, ...], runs: Sequence[tuple[str, int, int, str]]) -> None:
    added = connection.execute(
        "INSERT INTO decision (step, start_position, start_offset, end_position, end_offset, updated, vetoed, "
        "command, result) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        row,
    )
    if added.rowcount:
        rows = [(added.lastrowid, ordinal, *run) for ordinal, run in enumerate(runs)]
        connection.executemany("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?)", rows)


def _decision(rows: list[tuple[Any, ...]]) -> Decision:
    """One decision from its rows, one per run; a decision without samples is one row without a run."""
    _, step, start, start_offset, end, end_offset, updated, vetoed, command, result, *_ = rows[0]
    refs: list[SampleRef] = []
    verdicts: list[SampleVerdict] = []
    for *_, batch, first, text in rows:
        if batch is not None:
            run = unpack(text)
            refs += [SampleRef(batch, index) for index in range(first, first + len(run))]
            verdicts += run
    return Decision(
        step=step,
        start=Cursor(start, start_offset),
        end=Cursor(end, end_offset),
        refs=tuple(refs),
        verdicts=tuple(verdicts),
        updated=bool(updated),
        vetoed=bool(vetoed),
        command=command,
        result=json.loads(result),
    )
