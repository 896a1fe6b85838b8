"""What every log owes: order, durability, a bound, and idempotency."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weir.errors import Conflict, LogFull, NotFound, QuotaExceeded
from weir.stores.base import Backlog, Entry, EntryKind, IdempotencyKey, Log, NewEntry

if TYPE_CHECKING:
    from tests.contracts.conftest import Clock, Opened, Reopen

PRODUCERS = [f"producer-{number}" for number in range(8)]
HOURS = 3600.0


def deliver(log: Log, payload: bytes = b"x", producer: str = "ada", key: IdempotencyKey | None = None) -> Entry:
    return log.append(EntryKind.BATCH, producer, payload, samples=1, key=key)[0]


def command(log: Log, kind: EntryKind = EntryKind.ROLLBACK) -> Entry:
    return log.append(kind, "root", b"{}")[0]


def test_an_entry_comes_back_as_it_was_appended(log: Log, clock: Clock) -> None:
    clock.now = 1234.5
    entry, new = log.append(EntryKind.BATCH, "ada", b"\x00\xff bytes", samples=3)
    assert new
    assert entry == Entry(1, entry.id, EntryKind.BATCH, "ada", 3, b"\x00\xff bytes", 1234.5)
    assert log.get(entry.id) == entry
    assert log.read(0, 10) == [entry]


def test_an_empty_log_has_no_tail(log: Log) -> None:
    assert log.tail() == 0
    assert log.read(0, 10) == []
    assert log.backlog() == Backlog(0, 0, None)


def test_read_goes_on_from_a_position_in_order(log: Log) -> None:
    entries = [deliver(log, bytes([number])) for number in range(7)]
    assert [entry.position for entry in entries] == list(range(1, 8))
    assert log.read(0, 3) == entries[:3]
    assert log.read(3, 3) == entries[3:6]
    assert log.read(6, 3) == entries[6:]
    assert log.read(7, 3) == []
    assert log.tail() == 7


def test_ids_are_random_and_fit_a_url(log: Log) -> None:
    ids = [deliver(log).id, deliver(log).id, command(log).id]
    assert all(re.fullmatch(r"[\w.~-]{22,}", text, re.ASCII) for text in ids)
    assert len(set(ids)) == 3


def test_an_id_that_nothing_has_is_not_found(log: Log) -> None:
    with pytest.raises(NotFound):
        log.get("b_0")


def test_eight_producers_at_once_lose_nothing_and_keep_their_order(log: Log) -> None:
    start = threading.Barrier(len(PRODUCERS))

    def produce(producer: str) -> list[int]:
        start.wait()
        return [deliver(log, b"%d" % number, producer).position for number in range(25)]

    with ThreadPoolExecutor(len(PRODUCERS)) as pool:
        acknowledged = dict(zip(PRODUCERS, pool.map(produce, PRODUCERS), strict=True))
    entries = log.read(0, 1_000)
    assert [entry.position for entry in entries] == list(range(1, 201))
    for producer in PRODUCERS:
        own = [entry for entry in entries if entry.producer == producer]
        assert [entry.payload for entry in own] == [b"%d" % number for number in range(25)]
        assert [entry.position for entry in own] == acknowledged[producer]


def test_a_log_full_of_batches_refuses_until_some_are_consumed(reopen: Reopen) -> None:
    log = reopen(max_batches=2).log
    deliver(log)
    second = deliver(log)
    with pytest.raises(LogFull) as refused:
        deliver(log)
    assert refused.value.retry_after > 0
    assert log.tail() == second.position
    log.consumed(1)
    deliver(log)
    with pytest.raises(LogFull):
        deliver(log)


def test_a_log_full_of_bytes_refuses_until_some_are_consumed(reopen: Reopen) -> None:
    log = reopen(max_bytes=10).log
    first = deliver(log, b"123456")
    with pytest.raises(LogFull):
        deliver(log, b"12345")
    deliver(log, b"1234")
    log.consumed(first.position)
    deliver(log, b"123456")


def test_a_batch_over_the_bound_of_bytes_is_taken_alone(reopen: Reopen) -> None:
    log = reopen(max_bytes=10).log
    first = deliver(log, b"x" * 11)
    with pytest.raises(LogFull):
        deliver(log)
    log.consumed(first.position)
    deliver(log, b"x" * 11)


def test_commands_always_fit_and_count_for_nothing(reopen: Reopen) -> None:
    log = reopen(max_batches=1).log
    deliver(log, b"12345")
    for kind in EntryKind:
        if kind is not EntryKind.BATCH:
            command(log, kind)
    assert log.backlog().batches == 1
    assert log.backlog().bytes == 5


def test_the_bound_holds_for_producers_at_once(reopen: Reopen) -> None:
    log = reopen(max_batches=20).log
    start = threading.Barrier(len(PRODUCERS))

    def produce(producer: str) -> int:
        start.wait()
        taken = 0
        for _ in range(10):
            try:
                deliver(log, producer=producer)
                taken += 1
            except LogFull:
                pass
        return taken

    with ThreadPoolExecutor(len(PRODUCERS)) as pool:
        assert sum(pool.map(produce, PRODUCERS)) == 20
    assert log.backlog().batches == log.tail() == 20


def test_the_backlog_is_what_lies_past_the_consumed_position(log: Log, clock: Clock) -> None:
    command(log)
    for size in (1, 2, 4):
        clock.now += 1.0
        deliver(log, b"x" * size)
    assert log.backlog() == Backlog(3, 7, 1_001.0)
    log.consumed(2)
    assert log.backlog() == Backlog(2, 6, 1_002.0)
    log.consumed(1)
    assert log.backlog() == Backlog(2, 6, 1_002.0), "the consumed position went back"
    log.consumed(4)
    assert log.backlog() == Backlog(0, 0, None)


def test_the_log_and_its_backlog_outlive_the_process(stores: Opened, reopen: Reopen) -> None:
    entries = [deliver(stores.log, bytes([number])) for number in range(3)]
    stores.log.consumed(2)
    log = reopen().log
    assert log.read(0, 10) == entries
    assert log.backlog().batches == 1
    assert deliver(log).position == 4


def test_wait_is_over_when_the_entry_is_there(log: Log) -> None:
    assert not log.wait(0, 0.01)
    deliver(log)
    assert log.wait(0, 0.0)
    assert not log.wait(1, 0.01)


def test_an_append_wakes_who_waits(log: Log) -> None:
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(log.wait, 0, 20.0) for _ in range(2)]
        deliver(log)
        assert [future.result(timeout=10.0) for future in waiting] == [True, True]


def test_a_repeated_key_gives_the_first_entry(log: Log) -> None:
    key = IdempotencyKey("order-1", "aa")
    first, new = log.append(EntryKind.BATCH, "ada", b"x", samples=1, key=key)
    again, new_again = log.append(EntryKind.BATCH, "ada", b"x", samples=1, key=key)
    assert (new, new_again) == (True, False)
    assert again == dataclasses.replace(first, payload=b"")
    assert log.tail() == 1


def test_a_key_with_another_body_is_a_conflict(log: Log) -> None:
    deliver(log, key=IdempotencyKey("order-1", "aa"))
    with pytest.raises(Conflict) as refused:
        deliver(log, key=IdempotencyKey("order-1", "bb"))
    assert refused.value.code == "key_reused"
    assert log.tail() == 1


def test_keys_belong_to_their_producer(log: Log) -> None:
    first = deliver(log, producer="ada", key=IdempotencyKey("order-1", "aa"))
    assert deliver(log, producer="bob", key=IdempotencyKey("order-1", "bb")) != first


def test_a_full_log_still_answers_a_repeated_key(reopen: Reopen) -> None:
    log = reopen(max_batches=1).log
    key = IdempotencyKey("order-1", "aa")
    assert deliver(log, key=key).id == deliver(log, key=key).id


def test_a_refused_batch_does_not_use_its_key_up(reopen: Reopen) -> None:
    log = reopen(max_batches=1).log
    deliver(log)
    with pytest.raises(LogFull):
        deliver(log, key=IdempotencyKey("order-1", "aa"))
    log.consumed(1)
    assert deliver(log, key=IdempotencyKey("order-1", "aa")).position == 2


def test_keys_outlive_the_process_and_a_day_but_not_two(stores: Opened, reopen: Reopen, clock: Clock) -> None:
    key = IdempotencyKey("order-1", "aa")
    first = deliver(stores.log, key=key)
    clock.now += 24 * HOURS
    log = reopen().log
    assert deliver(log, key=key).id == first.id
    clock.now += 24.1 * HOURS
    assert deliver(log, key=key).id != first.id


def test_one_key_at_once_makes_one_entry(log: Log) -> None:
    start = threading.Barrier(8)

    def produce(_: int) -> tuple[Entry, bool]:
        start.wait()
        return log.append(EntryKind.BATCH, "ada", b"x", samples=1, key=IdempotencyKey("order-1", "aa"))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(produce, range(8)))
    assert len({entry.id for entry, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    assert log.tail() == 1


def test_each_of_many_has_its_own_outcome(reopen: Reopen) -> None:
    log = reopen(max_batches=3, producer_max_batches=2).log
    first = deliver(log, b"first", key=IdempotencyKey("order-1", "aa"))
    outcomes = log.append_all(
        [
            NewEntry(EntryKind.BATCH, "ada", b"first", 1, IdempotencyKey("order-1", "aa")),
            NewEntry(EntryKind.BATCH, "ada", b"second", 2, IdempotencyKey("order-2", "bb")),
            NewEntry(EntryKind.BATCH, "ada", b"other", 1, IdempotencyKey("order-2", "cc")),
            NewEntry(EntryKind.BATCH, "ada", b"third", 1),
            NewEntry(EntryKind.BATCH, "bob", b"fourth", 1),
            NewEntry(EntryKind.BATCH, "eve", b"fifth", 1),
            NewEntry(EntryKind.ROLLBACK, "root", b"{}"),
        ]
    )
    assert outcomes[0] == (dataclasses.replace(first, payload=b""), False)
    assert [type(outcome) for outcome in outcomes] == [tuple, tuple, Conflict, QuotaExceeded, tuple, LogFull, tuple]
    taken = [outcome[0] for outcome in outcomes if isinstance(outcome, tuple) and outcome[1]]
    assert log.read(1, 10) == taken
    assert [entry.payload for entry in taken] == [b"second", b"fourth", b"{}"]


def test_one_key_twice_in_one_go_makes_one_entry(log: Log) -> None:
    new = NewEntry(EntryKind.BATCH, "ada", b"x", 1, IdempotencyKey("order-1", "aa"))
    first, again = log.append_all([new, new])
    [entry] = log.read(0, 10)
    assert (first, again) == ((entry, True), (dataclasses.replace(entry, payload=b""), False))


def test_to_append_none_changes_nothing(log: Log) -> None:
    assert log.append_all([]) == []
    assert log.tail() == 0


def test_whatever_was_acknowledged_outlives_a_killed_process(backend: str, tmp_path: Path, reopen: Reopen) -> None:
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.contracts.appender", backend, str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        acknowledged = list(itertools.islice(child.stdout, 200))
        child.kill()
        acknowledged += child.stdout
    assert len(acknowledged) >= 200
    entries = reopen(max_batches=10**9).log.read(0, 1_000_000)
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    kept = {f"{entry.id} {entry.payload.decode()}\n" for entry in entries}
    assert set(acknowledged) <= kept
    assert len(kept) <= len(acknowledged) + 4, "more than what four threads can have had on the way"


def test_a_producer_has_its_share_and_no_more(reopen: Reopen) -> None:
    log = reopen(max_batches=10, producer_max_batches=2).log
    first = deliver(log)
    deliver(log)
    with pytest.raises(QuotaExceeded, match="'ada'") as refused:
        deliver(log)
    assert refused.value.retry_after > 0
    deliver(log, producer="bob")
    log.consumed(first.position)
    deliver(log)
    with pytest.raises(QuotaExceeded):
        deliver(log)


def test_a_producer_has_its_share_of_bytes(reopen: Reopen) -> None:
    log = reopen(max_bytes=100, producer_max_bytes=10).log
    deliver(log, b"123456")
    with pytest.raises(QuotaExceeded):
        deliver(log, b"12345")
    deliver(log, b"1234")
    deliver(log, b"x" * 20, producer="bob")  # one alone may be larger, as for the whole log


def test_quotas_outlive_the_process(reopen: Reopen) -> None:
    deliver(reopen(producer_max_batches=1).log)
    with pytest.raises(QuotaExceeded):
        deliver(reopen(producer_max_batches=1).log)


class TestTrim:
    def test_the_oldest_go_until_what_is_left_fits(self, log: Log) -> None:
        entries = [deliver(log, b"12345") for _ in range(6)]
        log.consumed(6)
        assert log.trim(6, keep_bytes=12) == 4
        assert log.floor() == 4
        assert log.read(0, 10) == log.read(log.floor(), 10) == entries[4:]
        with pytest.raises(NotFound):
            log.get(entries[3].id)
        assert log.get(entries[4].id) == entries[4]

    def test_nothing_goes_past_the_bound_that_was_given_or_is_waiting(self, log: Log) -> None:
        for _ in range(6):
            deliver(log, b"12345")
        log.consumed(4)
        assert log.trim(2, keep_bytes=0) == 2
        assert log.trim(6, keep_bytes=0) == 4, "what nobody has learned yet was dropped"
        assert log.backlog().batches == 2

    def test_what_fits_stays(self, log: Log) -> None:
        entry = deliver(log, b"12345")
        log.consumed(1)
        assert log.trim(1, keep_bytes=5) == 0
        assert log.floor() == 0
        assert log.read(0, 10) == [entry]

    def test_positions_are_not_given_again(self, log: Log, reopen: Reopen) -> None:
        for _ in range(3):
            deliver(log)
        log.consumed(3)
        assert log.trim(3, keep_bytes=0) == 3
        assert (log.tail(), log.read(0, 10)) == (3, [])
        log = reopen().log
        assert (log.tail(), log.floor()) == (3, 3)
        assert deliver(log).position == 4

    def test_a_key_outlives_its_entry(self, log: Log) -> None:
        key = IdempotencyKey("k", "aa")
        first = deliver(log, key=key)
        log.consumed(1)
        log.trim(1, keep_bytes=0)
        again, new = log.append(EntryKind.BATCH, "ada", b"x", samples=1, key=key)
        assert not new
        assert again == dataclasses.replace(first, payload=b"")


class TestRewrite:
    def test_other_bytes_stand_in_the_place_of_the_old_ones(self, log: Log, reopen: Reopen) -> None:
        entries = [deliver(log, b"secret %d" % number) for number in range(3)]
        log.rewrite(entries[1].id, b"gone")
        log.rewrite(entries[1].id, b"gone for good")
        expected = [entries[0], dataclasses.replace(entries[1], payload=b"gone for good"), entries[2]]
        assert log.read(0, 10) == expected
        assert log.read(1, 1) == expected[1:2]
        assert log.get(entries[1].id) == expected[1]
        assert reopen().log.read(0, 10) == expected

    def test_what_is_rewritten_is_still_counted_consumed_and_trimmed(self, log: Log) -> None:
        entries = [deliver(log, b"12345") for _ in range(3)]
        log.rewrite(entries[0].id, b"1")
        log.consumed(3)
        assert log.backlog().batches == 0
        assert log.trim(3, keep_bytes=0) == 3
        assert log.read(0, 10) == []

    def test_an_id_that_nothing_has_is_not_found(self, log: Log) -> None:
        with pytest.raises(NotFound):
            log.rewrite("b_none", b"x")
