"""Cuts: always in order, across small deliveries and within large ones, and as the record has them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from weir import codec
from weir.stores.base import Cursor, Entry, EntryKind
from weir.stores.sqlite import Sqlite
from weir.stores.sqlite.log import SqliteLog
from weir.trainer import cutter as module
from weir.trainer.cutter import BrokenCut, CommandCut, Cut, Cutter, StepCut
from weir.types import Batch, SampleRef


@pytest.fixture
def log(tmp_path: Path) -> SqliteLog:
    return Sqlite(tmp_path / "weir.db").log


class Producer:
    """Posts batches of samples that count up: sample i has x = i and y = i mod 7."""

    def __init__(self, log: SqliteLog) -> None:
        self.log = log
        self.sent = 0

    def post(self, n: int, *, by: str = "ann", dtype: torch.dtype = torch.float32, ids: bool = False) -> Entry:
        numbers = torch.arange(self.sent, self.sent + n)
        self.sent += n
        named = tuple(f"s{i}" for i in numbers.tolist()) if ids else None
        batch = Batch(numbers.reshape(n, 1).to(dtype), numbers % 7, named)
        return self.log.append(EntryKind.BATCH, by, codec.encode(batch), samples=n)[0]

    def command(self) -> Entry:
        return self.log.append(EntryKind.CHECKPOINT, "adi", b"{}")[0]


@pytest.fixture
def producer(log: SqliteLog) -> Producer:
    return Producer(log)


def cut_all(cutter: Cutter) -> list[Cut]:
    cuts = []
    while (cut := cutter.cut(partial=True)) is not None:
        cuts.append(cut)
    return cuts


def step(cut: Cut | None) -> StepCut:
    assert isinstance(cut, StepCut)
    return cut


def numbers(cut: Cut | None) -> list[int]:
    x: Tensor = step(cut).x
    return [int(value) for value in x.flatten()]


def test_an_empty_log_gives_nothing(log: SqliteLog) -> None:
    cutter = Cutter(log, step_size=4)
    assert cutter.cut(partial=True) is None
    assert not cutter.waiting
    assert cutter.cursor == Cursor()


@pytest.mark.parametrize("sizes", [[1] * 23, [7, 7, 7, 2], [23], [5, 1, 12, 1, 1, 3], [4, 4, 4, 4, 4, 3]])
def test_steps_are_full_and_in_order_however_the_samples_came(
    log: SqliteLog, producer: Producer, sizes: list[int]
) -> None:
    entries = [producer.post(size, ids=True) for size in sizes]
    cuts = [step(cut) for cut in cut_all(Cutter(log, step_size=4))]
    assert [len(cut.y) for cut in cuts] == [4, 4, 4, 4, 4, 3]
    assert [n for cut in cuts for n in numbers(cut)] == list(range(23))
    assert [n for cut in cuts for n in cut.y.tolist()] == [i % 7 for i in range(23)]
    assert [ref for cut in cuts for ref in cut.refs] == [
        SampleRef(entry.id, index) for entry in entries for index in range(entry.samples)
    ]
    assert [name for cut in cuts for name in cut.ids] == [f"s{i}" for i in range(23)]
    assert all(before.end == after.start for before, after in pairwise(cuts))
    assert cuts[0].start == Cursor()
    assert cuts[-1].end == Cursor(log.tail(), 0)


def test_a_cursor_within_a_delivery_counts_its_samples(log: SqliteLog, producer: Producer) -> None:
    producer.post(2)
    producer.post(10)
    cutter = Cutter(log, step_size=4)
    ends = [step(cutter.cut(partial=False)).end for _ in range(3)]
    assert ends == [Cursor(1, 2), Cursor(1, 6), Cursor(2, 0)]


@pytest.mark.parametrize("cursor", [Cursor(0, 0), Cursor(0, 3), Cursor(1, 0), Cursor(1, 2), Cursor(2, 0)])
def test_a_cutter_goes_on_from_any_cursor(log: SqliteLog, producer: Producer, cursor: Cursor) -> None:
    producer.post(5)
    producer.post(5)
    cutter = Cutter(log, step_size=100)
    cutter.seek(cursor)
    expected = list(range(5 * cursor.position + cursor.offset, 10))
    assert [n for cut in cut_all(cutter) for n in numbers(cut)] == expected
    assert cutter.cursor == Cursor(2, 0)


def test_a_step_that_is_not_full_waits_unless_a_partial_one_will_do(log: SqliteLog, producer: Producer) -> None:
    producer.post(3)
    cutter = Cutter(log, step_size=4)
    assert cutter.cut(partial=False) is None
    assert cutter.waiting
    assert cutter.read == 1
    producer.post(2)
    assert numbers(cutter.cut(partial=False)) == [0, 1, 2, 3]
    assert cutter.cut(partial=False) is None
    assert numbers(cutter.cut(partial=True)) == [4]
    assert not cutter.waiting


def test_a_command_ends_the_step_before_it_and_is_cut_alone(log: SqliteLog, producer: Producer) -> None:
    producer.post(6)
    order = producer.command()
    producer.post(4)
    cutter = Cutter(log, step_size=4)
    cuts = [cutter.cut(partial=False) for _ in range(4)]
    assert [numbers(cuts[i]) for i in (0, 1, 3)] == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]
    command = cuts[2]
    assert isinstance(command, CommandCut)
    assert command.entry == order
    assert (command.start, command.end) == (Cursor(1, 0), Cursor(2, 0))


def test_producers_are_named_sample_by_sample_and_ids_may_be_missing(log: SqliteLog, producer: Producer) -> None:
    producer.post(2, by="ann", ids=True)
    producer.post(1, by="bob")
    cut = step(Cutter(log, step_size=3).cut(partial=False))
    assert cut.producers == ("ann", "ann", "bob")
    assert cut.ids == ("s0", "s1", None)


def test_deliveries_of_different_kinds_meet_as_floats_and_bytes_take_their_scale_along(
    log: SqliteLog, producer: Producer
) -> None:
    producer.post(2, dtype=torch.uint8)
    producer.post(2, dtype=torch.float16)
    cutter = Cutter(log, step_size=4)
    cut = step(cutter.cut(partial=False))
    assert cut.x.dtype == torch.float32
    assert torch.equal(cut.x.flatten(), torch.tensor([0.0, 1 / 255, 2.0, 3.0]))
    producer.post(3, dtype=torch.uint8)
    assert step(cutter.cut(partial=True)).x.dtype == torch.uint8


@pytest.mark.parametrize("until", [Cursor(0, 1), Cursor(1, 0), Cursor(2, 1), Cursor(3, 0)])
@pytest.mark.parametrize("step_size", [2, 5, 100])
def test_a_cut_on_record_stands_whatever_a_step_is_now(
    log: SqliteLog, producer: Producer, until: Cursor, step_size: int
) -> None:
    for _ in range(4):
        producer.post(3)
    cutter = Cutter(log, step_size=step_size)
    cut = step(cutter.cut(partial=False, until=until))
    assert (cut.start, cut.end, cutter.cursor) == (Cursor(), until, until)
    assert numbers(cut) == list(range(3 * until.position + until.offset))
    rest = [n for cut in cut_all(cutter) for n in numbers(cut)]
    assert rest == list(range(len(cut.y), 12))


def test_a_long_backlog_is_read_piece_by_piece(
    log: SqliteLog, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        producer.post(50)
    reads: list[int] = []
    read: Callable[[int, int], list[Entry]] = log.read

    def counted(after: int, limit: int) -> list[Entry]:
        reads.append(limit)
        return read(after, limit)

    monkeypatch.setattr(log, "read", counted)
    cutter = Cutter(log, step_size=100)
    assert numbers(cutter.cut(partial=False)) == list(range(100))
    assert sum(reads) <= 3
    assert cutter.read == 2
    assert max(reads) <= module.MOST_ENTRIES


def test_samples_that_are_refused_are_passed_over_as_if_they_had_never_come(log: SqliteLog, producer: Producer) -> None:
    """Step boundaries, cursors and what is passed over whole: as without them."""
    producer.post(5)
    producer.post(3, by="eve")
    producer.post(6)
    cutter = Cutter(log, step_size=4, keep=lambda entry, index: entry.producer != "eve" and (index != 0))
    cuts = [step(cut) for cut in cut_all(cutter)]
    assert [numbers(cut) for cut in cuts] == [[1, 2, 3, 4], [9, 10, 11, 12], [13]]
    assert [cut.end for cut in cuts] == [Cursor(1), Cursor(2, 5), Cursor(3)]
    assert [ref.index for ref in cuts[1].refs] == [1, 2, 3, 4]


def test_a_cut_can_be_of_one_batch_alone(log: SqliteLog, producer: Producer) -> None:
    for size in (2, 3, 6):
        producer.post(size)
    cutter = Cutter(log, step_size=4)
    sizes = [len(step(cutter.cut(partial=False, single=True)).y) for _ in range(4)]
    assert sizes == [2, 3, 4, 2]


def test_nothing_is_cut_past_an_end(log: SqliteLog, producer: Producer) -> None:
    for _ in range(3):
        producer.post(3)
    cutter = Cutter(log, step_size=4)
    assert numbers(cutter.cut(partial=False, end=2)) == [0, 1, 2, 3]
    assert cutter.cut(partial=False, end=2) is None
    assert numbers(cutter.cut(partial=True, end=2)) == [4, 5]
    assert cutter.cut(partial=True, end=2) is None
    assert numbers(cutter.cut(partial=True)) == [6, 7, 8]


def test_erased_samples_are_passed_over_and_the_others_keep_their_indices(log: SqliteLog, producer: Producer) -> None:
    first, second = producer.post(4, ids=True), producer.post(4, ids=True)
    log.rewrite(first.id, codec.without(first.payload, [0, 2]))
    log.rewrite(second.id, codec.without(second.payload, range(4)))
    producer.post(1)
    cuts = [step(cut) for cut in cut_all(Cutter(log, step_size=4))]
    assert [numbers(cut) for cut in cuts] == [[1, 3, 8]]
    assert [ref.index for ref in cuts[0].refs] == [1, 3, 0]
    assert cuts[0].ids == ("s1", "s3", None)
    on_record = Cutter(log, step_size=4).cut(partial=True, until=Cursor(1, 3))
    assert (numbers(on_record), step(on_record).end) == ([1, 3], Cursor(1, 3))
    gone = Cutter(log, step_size=4)
    gone.seek(Cursor(1))
    nothing = step(gone.cut(partial=True, until=Cursor(1, 3)))
    assert (nothing.refs, nothing.end) == ((), Cursor(1, 3))


def test_a_payload_that_cannot_be_read_is_a_cut_of_its_own(log: SqliteLog, producer: Producer) -> None:
    producer.post(3)
    broken, _ = log.append(EntryKind.BATCH, "eve", b"no batch", samples=2)
    producer.post(3)
    first, second, third = cut_all(Cutter(log, step_size=4))
    assert (numbers(first), numbers(third)) == ([0, 1, 2], [3, 4, 5])
    assert isinstance(second, BrokenCut)
    assert (second.entry, second.start, second.end) == (broken, Cursor(1), Cursor(2))
