"""Erasing: the data is gone from log, quarantine and dead letters, and what learned from it is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.trainer.conftest import dying
from torch import Tensor

from weir import codec
from weir.stores.base import DeadLetter, EntryKind
from weir.types import Verdict

if TYPE_CHECKING:
    from tests.trainer.conftest import House, Open

Stream = tuple[Tensor, Tensor]


def indices(house: House, batch: str) -> list[int]:
    """What the log still has of a batch."""
    return list(codec.load_kept(house.stores.log.get(batch).payload)[1])


def test_a_producers_data_is_gone_and_its_checkpoints_are_named(house: House, stream: Stream) -> None:
    x, y = stream
    (ann,) = house.post(x[:60], y[:60], by="ann")
    house.drain()
    before = [info.id for info in house.stores.checkpoints.all()]
    eves = house.post(x[60:120], y[60:120], size=30, by="eve")
    house.drain()
    since = [info.id for info in house.stores.checkpoints.all() if info.id not in before]
    held = [sample for sample in house.held if sample.producer == "eve"]
    house.stores.dead_letters.put(DeadLetter(eves[0].id, 0, 5, "eve", 3, "no", b"x", 1.0))
    entry = house.order(EntryKind.ERASE, producer="eve")
    house.drain()
    outcome = house.outcome(entry)
    assert held
    assert {name: outcome[name] for name in ("entries", "samples", "quarantine", "dead_letters")} == {
        "entries": 2,
        "samples": 60,
        "quarantine": len(held),
        "dead_letters": 1,
    }
    assert outcome["checkpoints"] == since
    assert [indices(house, batch.id) for batch in eves] == [[], []]
    assert indices(house, ann.id) == list(range(60))
    assert {sample.producer for sample in house.held} <= {"ann"}
    assert house.stores.dead_letters.page(None, 10)[0] == []


def test_the_model_stays_as_it_was_and_the_stream_goes_on(open_house: Open, stream: Stream) -> None:
    x, y = stream
    plain, house = open_house("plain"), open_house("erased")
    for each in (plain, house):
        each.post(x[:100], y[:100], by="eve")
        each.drain()
        if each is house:
            each.order(EntryKind.ERASE, producer="eve")
        each.post(x[100:], y[100:], by="eve")
        each.drain()
    weights = {name: bits for name, bits in house.bits.items() if "learner" in name}
    assert weights == {name: bits for name, bits in plain.bits.items() if "learner" in name}
    assert sum(house.cuts) == 230


def test_a_single_sample_is_gone_and_the_others_keep_their_indices(house: House, stream: Stream) -> None:
    x, y = stream
    (batch,) = house.post(x[:50], y[:50])
    house.drain()
    house.order(EntryKind.ERASE, sample=f"{batch.id}:7")
    entry = house.order(EntryKind.ERASE, sample=f"{batch.id}:7")
    house.drain()
    assert house.outcome(entry)["samples"] == 0, "what is gone was found again"
    left, kept = codec.load_kept(house.stores.log.get(batch.id).payload)
    assert list(kept) == [*range(7), *range(8, 50)]
    assert left.y.tolist() == [*y[:7].tolist(), *y[8:50].tolist()]
    assert left.ids is not None
    assert left.ids[7] == "s8"


def test_a_learner_that_falls_back_behind_an_erasure_passes_over_what_is_gone(
    house: House, stream: Stream, tmp_path: Path
) -> None:
    x, y = stream
    (batch,) = house.post(x[:50], y[:50])
    house.drain()
    house.order(EntryKind.ERASE, batch=batch.id)
    house.post(x[50:], y[50:])
    house.drain()
    for info in house.stores.checkpoints.all()[1:]:
        (tmp_path / "house" / "checkpoints" / info.id / "tensors.safetensors").write_bytes(b"damaged")
    trainer = house.drain()
    assert trainer.status.failure is None
    assert trainer.status.position == house.stores.log.tail()
    assert len(house.stores.journal.samples(batch.id)) == 50


@pytest.mark.parametrize("written", [False, True])
def test_an_erasure_that_was_cut_off_is_made_good(house: House, stream: Stream, written: bool) -> None:
    (batch,) = house.post(stream[0][:50], stream[1][:50], by="eve")
    house.drain()
    entry = house.order(EntryKind.ERASE, producer="eve")
    assert (
        house.drain(stores=replace(house.stores, journal=dying(house.stores.journal, written=written))).status.failure
        is not None
    )
    assert indices(house, batch.id) == list(range(50))
    house.drain()
    assert indices(house, batch.id) == []
    assert house.outcome(entry)["samples"] == 50


def test_what_was_held_is_not_counted_as_learned(house: House, stream: Stream) -> None:
    house.post(stream[0][:100], stream[1][:100])
    house.drain()
    sample = next(s for s in house.held if s.verdict.verdict is Verdict.QUARANTINE)
    entry = house.order(EntryKind.ERASE, sample=sample.id)
    house.drain()
    assert house.outcome(entry)["checkpoints"] == []
    assert house.outcome(entry)["quarantine"] == 1
