"""What every store owes to who must forget, beside its own suite: edges of trimming, rewriting, expiry and erasure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from weir.errors import NotFound
from weir.stores.base import (
    Backlog,
    Cursor,
    Decision,
    Entry,
    EntryKind,
    Held,
    HeldFilter,
    HeldState,
    IdempotencyKey,
    Journal,
    Log,
    Quarantine,
    QuarantineSize,
)
from weir.types import Reason, SampleRef, SampleVerdict, Verdict

if TYPE_CHECKING:
    from tests.contracts.conftest import Clock, Opened, Reopen

CLEAN = SampleVerdict(Verdict.ACCEPT, Reason.CLEAN, 0.1)
SUSPECT = SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE, 0.9)


def deliver(log: Log, size: int = 1, producer: str = "ada", key: IdempotencyKey | None = None) -> Entry:
    return log.append(EntryKind.BATCH, producer, b"x" * size, samples=1, key=key)[0]


def step(number: int, batch: str, *indices: int, command: str | None = None) -> Decision:
    """A decision on entry ``number`` alone."""
    refs = tuple(SampleRef(batch, index) for index in indices)
    return Decision(number, Cursor(number - 1), Cursor(number), refs, (CLEAN,) * len(refs), command=command)


def held(index: int, producer: str = "ada") -> Held:
    return Held("b_1", index, producer, 0, 4, SUSPECT, b"sample", held_at=1_700_000_000.123456 + index)


def test_an_empty_payload_is_counted_and_consumed(log: Log) -> None:
    deliver(log, 0)
    log.consumed(1)
    assert log.backlog() == Backlog(0, 0, None)


def test_trim_drops_the_oldest_until_few_enough_bytes_are_left(log: Log) -> None:
    entries = [deliver(log, 10) for _ in range(5)]
    command = log.append(EntryKind.CHECKPOINT, "root", b"{}" * 50)[0]
    log.consumed(6)
    assert log.floor() == 0
    assert log.trim(6, keep_bytes=50) == 0
    assert log.trim(6, keep_bytes=29) == 3
    assert log.floor() == 3
    assert log.read(0, 10) == [*entries[3:], command]
    assert log.trim(4, keep_bytes=0) == 4
    assert log.trim(0, keep_bytes=0) == 4
    for gone in entries[:4]:
        with pytest.raises(NotFound):
            log.get(gone.id)
    assert log.get(entries[4].id) == entries[4]


def test_trim_drops_nothing_that_waits(log: Log) -> None:
    entries = [deliver(log, 10) for _ in range(3)]
    log.consumed(1)
    assert log.trim(3, keep_bytes=0) == 1
    assert log.read(0, 10) == entries[1:]
    assert log.backlog().batches == 2


def test_positions_are_not_used_again_after_a_trim(log: Log, reopen: Reopen) -> None:
    for _ in range(3):
        deliver(log)
    log.consumed(3)
    assert log.trim(3, keep_bytes=0) == 3
    assert log.read(0, 10) == []
    assert log.tail() == 3
    log = reopen().log
    assert (log.tail(), log.floor()) == (3, 3)
    assert deliver(log).position == 4
    assert log.wait(3, 0.0)


def test_a_long_log_is_trimmed_and_consumed_whole(log: Log) -> None:
    for _ in range(600):
        deliver(log)
    log.consumed(600)
    assert log.backlog() == Backlog(0, 0, None)
    assert log.trim(599, keep_bytes=0) == 599
    assert [entry.position for entry in log.read(0, 10)] == [600]


def test_a_key_outlives_its_entry(log: Log, clock: Clock) -> None:
    clock.now = 1_700_000_000.123456
    key = IdempotencyKey("order-1", "aa")
    first = deliver(log, key=key)
    log.consumed(1)
    log.trim(1, keep_bytes=0)
    again = log.append(EntryKind.BATCH, "ada", b"x", samples=1, key=key)
    assert again == (dataclasses.replace(first, payload=b""), False)


def test_a_rewritten_entry_keeps_its_place_and_all_but_its_payload(log: Log, reopen: Reopen) -> None:
    entries = [deliver(log, 10) for _ in range(3)]
    log.rewrite(entries[1].id, b"erased")
    expected = [entries[0], dataclasses.replace(entries[1], payload=b"erased"), entries[2]]
    assert log.read(0, 10) == expected
    log = reopen().log
    assert log.read(0, 10) == expected
    assert log.read(1, 1) == [expected[1]]
    assert log.get(entries[1].id) == expected[1]
    log.consumed(3)
    assert log.backlog() == Backlog(0, 0, None)
    log.trim(2, keep_bytes=0)
    for gone in (entries[0].id, entries[1].id, "b_0"):
        with pytest.raises(NotFound):
            log.rewrite(gone, b"")


def test_the_journal_is_trimmed_by_what_lies_wholly_before_the_floor(journal: Journal) -> None:
    across = Decision(3, Cursor(2), Cursor(3, 1), (SampleRef("b_2", 0), SampleRef("b_3", 0)), (CLEAN, CLEAN))
    decisions = [step(1, "b_1", 0, 1), step(2, "b_2", 0, command="c_1"), across]
    for decision in decisions:
        journal.record(decision)
    journal.trim(0)
    assert journal.after(Cursor()) == decisions
    journal.trim(2)
    journal.trim(2)
    assert journal.after(Cursor()) == [across]
    assert journal.samples("b_1") == []
    assert [line.step for line in journal.samples("b_2")] == [3]
    assert journal.outcome("c_1") is None
    assert not journal.wait("b_1", 2, 0.0)
    assert journal.wait("b_2", 1, 0.0)
    journal.trim(3)
    assert journal.after(Cursor()) == [across]
    journal.trim(4)
    assert journal.after(Cursor()) == []


def test_a_long_journal_is_read_and_trimmed_whole(journal: Journal) -> None:
    decisions = [step(number, f"b_{number}", 0) for number in range(1, 301)]
    for decision in decisions:
        journal.record(decision)
    assert journal.after(Cursor(3)) == decisions[3:]
    journal.trim(299)
    assert journal.after(Cursor()) == decisions[299:]


def test_lineage_outlives_the_process(stores: Opened, reopen: Reopen) -> None:
    stores.journal.record(step(1, "b_1", 0))
    stores.journal.in_weights([], 1)
    assert [line.rolled_back for line in reopen().journal.samples("b_1")] == [True]


def test_a_producer_is_counted_by_what_it_has_held(quarantine: Quarantine, reopen: Reopen) -> None:
    quarantine.put([held(0), held(1), held(2, "bob")])
    quarantine.put([held(0)])
    assert [quarantine.held_by(producer) for producer in ("ada", "bob", "eve")] == [2, 1, 0]
    quarantine.move("b_1:0", HeldState.RELEASED, expect=[HeldState.HELD])
    assert quarantine.held_by("ada") == 1
    quarantine.move("b_1:0", HeldState.HELD, expect=[HeldState.RELEASED])
    assert reopen().quarantine.held_by("ada") == 2


def test_dropped_samples_are_gone_whatever_their_state(quarantine: Quarantine) -> None:
    quarantine.put([held(index) for index in range(3)])
    quarantine.move("b_1:1", HeldState.DISCARDED, expect=[HeldState.HELD], at=5.0)
    assert quarantine.drop(["b_1:0", "b_1:1", "b_1:9"]) == 2
    assert quarantine.drop([]) == 0
    with pytest.raises(NotFound):
        quarantine.get("b_1:0")
    assert [sample.index for sample in quarantine.page(HeldFilter(), None, 10)[0]] == [2]
    assert quarantine.size() == QuarantineSize(1, held(2).held_at)
    assert quarantine.held_by("ada") == 1
    assert quarantine.drop_resolved(10.0) == 0


def test_many_samples_are_put_expired_and_dropped_whole(quarantine: Quarantine) -> None:
    quarantine.put(held(index) for index in range(1_200))
    rows, cursor = quarantine.page(HeldFilter(producer="ada"), None, 1_100)
    assert len(rows) == 1_100
    assert len(quarantine.page(HeldFilter(), cursor, 1_100)[0]) == 100
    assert quarantine.expire(held(1_200).held_at, by="weir", at=5.0, note="") == 1_200
    assert quarantine.drop_resolved(6.0) == 1_200
    assert quarantine.size() == QuarantineSize(0, None)
