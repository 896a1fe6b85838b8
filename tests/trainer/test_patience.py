"""A learner whose storage fails waits, says so, and goes on where it was when the storage is back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from torch import Tensor

from weir.errors import Fenced, StorageFailed, StorageFull
from weir.stores.base import EntryKind, Stores

if TYPE_CHECKING:
    from tests.trainer.conftest import House, Open

Stream = tuple[Tensor, Tensor]


class Outage:
    """Every store of a house raises while this is on; ``hits`` counts how often."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.on = False
        self.hits = 0
        self.hit = threading.Event()

    def over(self, stores: Stores) -> Stores:
        names = ("log", "journal", "quarantine", "checkpoints")
        failing: dict[str, Any] = {name: _Failing(getattr(stores, name), self) for name in names}
        return replace(stores, **failing)

    def strike(self) -> None:
        if self.on:
            self.hits += 1
            self.hit.set()
            raise self.error


class _Failing:
    def __init__(self, real: Any, outage: Outage) -> None:
        self._real = real
        self._outage = outage

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self._outage.strike()
            return getattr(self._real, name)(*args, **named)

        return call


@pytest.mark.parametrize("after", [0, 3, 4, 5, 9])
def test_an_outage_at_any_moment_costs_nothing_but_time(
    open_house: Open, stream: Stream, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weir.trainer.patience.FIRST_PAUSE", 0.01)
    straight, house = open_house("straight"), open_house("outage")
    for each in (straight, house):
        each.post(*stream, size=30)
        each.order(EntryKind.CHECKPOINT, reason="asked for")
    straight.drain(checkpoint_every=4)
    outage = Outage(StorageFull("the disk is full"))
    trainer = house.trainer(
        stores=outage.over(house.stores),
        checkpoint_every=4,
        listeners=[lambda report: setattr(outage, "on", report.step == after or outage.on)],
    )
    outage.on = after == 0
    trainer.start()
    assert outage.hit.wait(30.0)
    while outage.hits < 3:
        outage.hit.wait(0.01)
    assert trainer.status.waits_for == "the disk is full"
    assert trainer.status.alive
    outage.on = False
    assert house.stores.journal.wait(house.stores.log.read(0, 100)[-1].id, 0, 30.0)
    said: str | None = trainer.status.waits_for
    assert said is None
    trainer.stop(drain_seconds=30.0)
    assert trainer.status.failure is None
    assert house.bits == straight.bits
    assert house.held_anonymously == straight.held_anonymously
    assert house.verdicts == straight.verdicts


def test_a_stop_does_not_wait_for_the_storage(house: House, stream: Stream) -> None:
    house.post(*stream)
    outage = Outage(StorageFailed("no route to the store"))
    trainer = house.trainer(stores=outage.over(house.stores))
    outage.on = True
    trainer.start()
    assert outage.hit.wait(30.0)
    trainer.stop(drain_seconds=1.0)
    assert trainer.status.failure == "StorageFailed: no route to the store"
    assert not trainer.status.alive


def test_a_learner_that_was_fenced_ends_at_once_and_writes_nothing(house: House, stream: Stream) -> None:
    house.post(*stream)
    before = house.stores.checkpoints.all()
    outage = Outage(Fenced("another learner has taken over"))
    trainer = house.trainer(stores=outage.over(house.stores))
    outage.on = True
    trainer.start()
    trainer._thread.join(30.0)
    assert trainer.status.failure == "Fenced: another learner has taken over"
    assert outage.hits == 1
    assert house.stores.checkpoints.all() == before
    assert house.decisions == []
