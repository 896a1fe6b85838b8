"""What is learned leaves the log when it is more than retention keeps, and never what a restart may need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from torch import Tensor

from weir.errors import DamagedCheckpoint, NotFound
from weir.stores.base import HeldState
from weir.trainer import Retention
from weir.trainer.upkeep import keep_house

if TYPE_CHECKING:
    from pathlib import Path

    from tests.trainer.conftest import House, Open

Stream = tuple[Tensor, Tensor]
NOTHING = Retention(log_bytes=0, quarantine_seconds=1e12)


def test_the_log_reaches_back_to_the_second_newest_checkpoint(house: House, stream: Stream) -> None:
    entries = house.post(*stream, size=10)
    house.drain(checkpoint_every=4, retention=NOTHING)
    kept = [info for info in house.stores.checkpoints.all() if info.reason == "every"]
    assert house.stores.log.floor() == kept[-2].cursor.position > 0
    with pytest.raises(NotFound):
        house.stores.log.get(entries[0].id)
    assert house.stores.journal.samples(entries[0].id) == []
    assert house.stores.journal.samples(entries[-1].id)


def test_what_fits_stays_for_replays(house: House, stream: Stream) -> None:
    house.post(*stream, size=10)
    house.drain(checkpoint_every=4, retention=Retention(log_bytes=1 << 30))
    assert house.stores.log.floor() == 0


def test_a_trimmed_log_is_learned_like_a_whole_one(open_house: Open, stream: Stream) -> None:
    whole, trimmed = open_house("whole"), open_house("trimmed")
    for each in (whole, trimmed):
        each.post(*stream, size=10)
    whole.drain(checkpoint_every=4)
    trimmed.crash(10, checkpoint_every=4, retention=NOTHING)
    trimmed.drain(checkpoint_every=4, retention=NOTHING)
    assert trimmed.bits == whole.bits


def test_a_checkpoint_that_the_log_does_not_reach_back_to_is_refused(
    house: House, stream: Stream, tmp_path: Path
) -> None:
    house.post(*stream, size=10)
    house.drain(checkpoint_every=4, retention=NOTHING)
    for info in house.stores.checkpoints.all()[1:]:
        (tmp_path / "house" / "checkpoints" / info.id / "tensors.safetensors").write_bytes(b"damaged")
    with pytest.raises(DamagedCheckpoint, match="what lies between is lost"):
        house.trainer()


def test_the_quarantine_ages(house: House, stream: Stream) -> None:
    house.post(*stream)
    house.drain()
    first, second = house.held[:2]
    house.stores.quarantine.move(first.id, HeldState.RELEASED, expect=[HeldState.HELD], at=first.held_at)
    week = Retention(quarantine_seconds=7 * 86_400.0)
    keep_house(house.stores, week, first.held_at + 6 * 86_400.0)
    assert house.stores.quarantine.get(second.id).state is HeldState.HELD
    keep_house(house.stores, week, first.held_at + 8 * 86_400.0)
    with pytest.raises(NotFound):
        house.stores.quarantine.get(first.id)
    aged = house.stores.quarantine.get(second.id)
    assert (aged.state, aged.resolved_by, aged.note) == (HeldState.DISCARDED, "weir", "nobody reviewed it in time")
