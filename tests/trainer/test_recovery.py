"""Killed at any instant and made anew over the same stores, the trainer ends as if nothing had happened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.trainer.conftest import CONFIG, STEP
from torch import Tensor

from weir.core import GateConfig, SnapshotConfig
from weir.stores.base import Decision, EntryKind, Held, Stores
from weir.trainer import saved
from weir.types import Arithmetic, DeclinePolicy

if TYPE_CHECKING:
    from tests.trainer.conftest import House, Open

Stream = tuple[Tensor, Tensor]
Faulty = Callable[[Stores, int], Stores]


class PowerCut(Exception):
    """The end of a process, as far as its stores can tell."""


class Through:
    """Another store, but for what a subclass spoils."""

    def __init__(self, real: Any, fatal: int) -> None:
        self._real = real
        self._fatal = fatal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class JournalBefore(Through):
    def record(self, decision: Decision) -> None:
        if decision.step == self._fatal:
            raise PowerCut
        self._real.record(decision)


class JournalAfter(Through):
    def record(self, decision: Decision) -> None:
        self._real.record(decision)
        if decision.step == self._fatal:
            raise PowerCut


class QuarantineBefore(Through):
    def put(self, samples: Iterable[Held]) -> None:
        held = list(samples)
        if held[0].step >= self._fatal:
            raise PowerCut
        self._real.put(held)


class QuarantineAfter(Through):
    def put(self, samples: Iterable[Held]) -> None:
        held = list(samples)
        self._real.put(held)
        if held[0].step >= self._fatal:
            raise PowerCut


class ConsumedBefore(Through):
    def consumed(self, position: int) -> None:
        self._fatal -= 1  # the first call is that of a trainer that is made
        if self._fatal == 0:
            raise PowerCut
        self._real.consumed(position)


FAULTS: dict[str, Faulty] = {
    "before the journal": lambda stores, step: replace(stores, journal=JournalBefore(stores.journal, step)),
    "after the journal": lambda stores, step: replace(stores, journal=JournalAfter(stores.journal, step)),
    "before the quarantine": lambda stores, step: replace(stores, quarantine=QuarantineBefore(stores.quarantine, step)),
    "after the quarantine": lambda stores, step: replace(stores, quarantine=QuarantineAfter(stores.quarantine, step)),
    "before the cursor": lambda stores, step: replace(stores, log=ConsumedBefore(stores.log, step + 1)),
}


def deliver(house: House, stream: Stream) -> None:
    """The stream in deliveries of all sizes, of two producers, with commands in between."""
    x, y = stream
    house.post(x[:45], y[:45], size=7, by="ann")
    house.post(x[45:120], y[45:120], by="bob")
    house.order(EntryKind.MODE, mode="observe")
    house.post(x[120:150], y[120:150], size=1, by="ann")
    house.order(EntryKind.MODE, mode="weir")
    house.order(EntryKind.ROLLBACK, checkpoint="00000001-0")
    house.post(x[150:], (y[150:] + 1) % 3, size=40, by="bob")  # something is held at the end, too


def story(house: House) -> list[tuple[Any, ...]]:
    """The journal without what is random in it: the batches' ids."""
    return [
        (d.step, d.start, d.end, tuple(ref.index for ref in d.refs), d.verdicts, d.updated, d.vetoed, d.command is None)
        for d in house.decisions
    ]


@pytest.fixture(scope="module")
def straight(open_shared: Open, stream: Stream) -> House:
    """A house in which nothing ever happened."""
    house = open_shared("straight")
    deliver(house, stream)
    assert house.drain(checkpoint_every=4).status.failure is None
    assert house.held
    return house


@pytest.mark.parametrize(
    ("fault", "step"), [*((fault, 6) for fault in FAULTS), ("after the journal", 1), ("before the quarantine", 13)]
)
def test_a_trainer_that_dies_is_made_good_to_the_last_bit(
    open_house: Open, straight: House, stream: Stream, fault: str, step: int
) -> None:
    house = open_house("crashed")
    deliver(house, stream)
    dead = house.drain(stores=FAULTS[fault](house.stores, step), checkpoint_every=4)
    assert dead.status.failure is not None
    assert "PowerCut" in dead.status.failure
    assert house.newest[0].reason != "stop"
    alive = house.drain(checkpoint_every=4)
    assert alive.status.failure is None
    assert story(house) == story(straight)
    assert house.held_anonymously == straight.held_anonymously
    assert house.bits == straight.bits
    assert alive.status.vetoes == sum(decision.vetoed for decision in house.decisions)


def test_dying_after_every_single_step_changes_nothing_either(
    open_house: Open, straight: House, stream: Stream
) -> None:
    house = open_house("crashed")
    deliver(house, stream)
    for step in range(1, 16):
        stores = replace(house.stores, journal=JournalAfter(house.stores.journal, step))
        house.drain(stores=stores, checkpoint_every=4)
    assert house.drain(checkpoint_every=4).status.failure is None
    assert story(house) == story(straight)
    assert house.bits == straight.bits


@pytest.mark.parametrize("every", [1, 3, 1_000])
def test_how_often_state_is_saved_does_not_matter(
    open_house: Open, straight: House, stream: Stream, every: int
) -> None:
    house = open_house("other")
    deliver(house, stream)
    house.crash(8, checkpoint_every=every)
    house.drain(checkpoint_every=every)
    assert house.bits == straight.bits


def test_checkpoints_have_the_same_numbers_though_one_was_saved_by_a_command(open_house: Open, stream: Stream) -> None:
    """Killed between the command's checkpoint and the one that was due at the same step."""
    straight, house = open_house("straight"), open_house("crashed")
    for each in (straight, house):
        each.post(stream[0][:60], stream[1][:60])
        each.order(EntryKind.CHECKPOINT, reason="manual")
        each.post(stream[0][60:], stream[1][60:])
    straight.drain(checkpoint_every=4)
    dead = house.drain(stores=replace(house.stores, journal=JournalBefore(house.stores.journal, 4)), checkpoint_every=4)
    assert dead.status.failure is not None
    house.drain(checkpoint_every=4)
    numbers = [info.id for info in straight.stores.checkpoints.all()]
    assert [info.id for info in house.stores.checkpoints.all()] == numbers
    assert house.bits == straight.bits


def test_vetoes_are_counted_once_and_remembered(open_house: Open, stream: Stream) -> None:
    """A step that was vetoed is not tried again after a crash; that it was vetoed still counts."""
    straight, house = open_house("straight"), open_house("crashed")
    gate = GateConfig(rate=0.5, tolerance=0.0, decline=0.0)
    config = replace(straight.trainer().engine.config, gate=gate)
    for each in (straight, house):
        each.post(*stream)
    vetoes = straight.drain(engine=config).status.vetoes
    assert vetoes > 0
    house.crash(11, engine=config)
    assert house.drain(engine=config).status.vetoes == vetoes
    assert house.bits == straight.bits


@pytest.mark.parametrize("policy", DeclinePolicy)
def test_a_first_step_that_was_undone_leaves_no_trace_that_a_crash_would_lose(
    open_house: Open, stream: Stream, policy: DeclinePolicy
) -> None:
    straight, house = open_house("straight"), open_house("crashed")
    config = straight.trainer().engine.config
    gate = GateConfig(tolerance=0.0, decline=0.0, decline_policy=policy)
    config = replace(config, gate=gate, learner=replace(config.learner, lr=20.0))
    for each in (straight, house):
        each.post(stream[0][:40], stream[1][:40], size=20)
    assert straight.drain(engine=config).status.updates == 0
    house.drain(stores=replace(house.stores, journal=JournalAfter(house.stores.journal, 2)), engine=config)
    house.drain(engine=config)
    assert story(house) == story(straight)
    assert house.bits == straight.bits


def test_what_was_held_is_not_learned_on_the_second_try_though_the_settings_are_others(
    house: House, stream: Stream
) -> None:
    house.post(*stream)
    config = house.trainer().engine.config
    house.crash(9)
    before = house.verdicts
    held = [sample.id for sample in house.held]
    assert held
    lax = replace(config, guard=replace(config.guard, sample_rate=0.5))
    reports: list[Any] = []
    house.drain(engine=lax, listeners=[reports.append])
    assert house.verdicts[: len(before)] == before
    assert [v for report in reports for v in report.verdicts][: len(before)] == before
    assert [sample.id for sample in house.held][: len(held)] == held


def test_a_partial_step_is_cut_the_same_after_a_crash(house: House, stream: Stream) -> None:
    """The wait was over with five samples then; now there would be enough for a full step at once."""
    x, y = stream
    trainer = house.trainer()
    trainer.start()
    (first,) = house.post(x[:5], y[:5])
    assert house.stores.journal.wait(first.id, 5, 30)
    (second,) = house.post(x[5:32], y[5:32])
    assert house.stores.journal.wait(second.id, 27, 30)
    trainer.stop()
    final = house.bits
    for info in house.stores.checkpoints.all()[1:]:
        _forget(house, info.id)
    house.post(x[32:72], y[32:72])
    decisions = house.decisions
    reports: list[Any] = []
    house.drain(listeners=[reports.append])
    assert house.cuts == [5, 20, 7, 20, 20]
    assert [len(report.verdicts) for report in reports] == [5, 20, 7, 20, 20]
    assert house.decisions[:3] == decisions
    assert house.bits.keys() == final.keys()


@pytest.mark.parametrize("size", [8, 50])
def test_cuts_on_record_stand_under_another_step_size(open_house: Open, stream: Stream, size: int) -> None:
    """The weights of a longer one differ, as those of another learning rate do: what was full is partial now."""
    straight, house = open_house("straight"), open_house("crashed")
    x, y = stream
    for each in (straight, house):
        each.post(x[:100], y[:100], size=30)
    straight.drain()
    house.crash(5)
    engine = replace(CONFIG, step_size=size)
    house.drain(engine=engine)
    if size < STEP:
        assert house.bits == straight.bits
    assert [decision.verdicts for decision in house.decisions] == [decision.verdicts for decision in straight.decisions]
    house.post(x[100:], y[100:])
    house.drain(engine=engine)
    assert house.cuts == [20] * 5 + [size] * (130 // size) + [130 % size]


def test_a_release_is_learned_again_by_weights_that_lost_it(open_house: Open, stream: Stream) -> None:
    straight, house = open_house("straight"), open_house("crashed")
    for each in (straight, house):
        each.post(stream[0][:100], stream[1][:100])
        each.drain()
        sample = next(s for s in each.held if s.verdict.reason.value == "sample")
        each.order(EntryKind.RELEASE, ids=[sample.id], note=None, label=(sample.label - 1) % 3, force=False)
        each.post(stream[0][100:], stream[1][100:])
    straight.drain()
    house.crash(8)
    assert next(s for s in house.held if s.relabel is not None).state.value == "released"
    house.drain()
    assert house.bits == straight.bits
    assert story(house) == story(straight)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    open_house: Open, stream: Stream, tmp_path: Any
) -> None:
    straight, house = open_house("straight"), open_house("crashed")
    for each in (straight, house):
        each.post(*stream)
        each.drain(checkpoint_every=5)
    newest = house.newest[0].id
    file = tmp_path / "crashed" / "checkpoints" / newest / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    trainer = house.trainer()
    assert trainer.status.step == 10
    house.drain()
    assert house.bits == straight.bits


def test_another_environment_is_said(
    open_house: Open, stream: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house = open_house()
    house.drain()
    with caplog.at_level(logging.WARNING):
        house.trainer()
        assert not caplog.records
        monkeypatch.setattr("weir.trainer.saved.torch.get_num_threads", lambda: 7)
        house.trainer()
    assert "threads was 1, is 7" in caplog.text
    assert "arithmetic" not in caplog.text


@pytest.mark.parametrize("said", [True, False])
def test_an_anchor_that_scored_in_other_numbers_is_said(
    open_house: Open, stream: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: bool
) -> None:
    """Also where the checkpoint is of a Weir that knew none but float32."""
    house = open_house()
    if not said:
        written = saved.environment
        monkeypatch.setattr(
            saved, "environment", lambda engine: {k: v for k, v in written(engine).items() if k != "arithmetic"}
        )
    house.drain()
    monkeypatch.undo()
    halved = replace(CONFIG, snapshots=SnapshotConfig(arithmetic=Arithmetic.BFLOAT16))
    with caplog.at_level(logging.WARNING):
        house.trainer(engine=halved)
    assert "arithmetic was float32, is bfloat16" in caplog.text


def test_the_ring_goes_on_where_it_was(open_house: Open, stream: Stream) -> None:
    straight, house = open_house("straight"), open_house("stopped")
    config = replace(straight.trainer().engine.config, snapshots=SnapshotConfig(lag=3, every=2))
    x, y = stream
    straight.post(x, y)
    reports: list[Any] = []
    straight.drain(engine=config, listeners=[reports.append])
    again: list[Any] = []
    for at in range(0, 230, 60):
        house.post(x[at : at + 60], y[at : at + 60])
        house.drain(engine=config, listeners=[again.append])
    assert [report.lag for report in again] == [report.lag for report in reports]
    assert house.bits == straight.bits


def _forget(house: House, checkpoint: str) -> None:
    """Lose a checkpoint, as a crash before it was written would have."""
    folder: Any = house.stores.checkpoints
    for file in (folder._path / checkpoint).iterdir():
        file.unlink()
    (folder._path / checkpoint).rmdir()
