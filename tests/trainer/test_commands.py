"""Commands through the log: what each does, what it answers, and what a failing one leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.trainer.conftest import dying
from torch import Tensor

from weir import codec
from weir.core import GateConfig, GuardConfig, LearnerConfig
from weir.core.engine import Engine
from weir.stores.base import CheckpointInfo, Cursor, EntryKind, Held, HeldState
from weir.trainer import Trainer
from weir.types import Batch, GuardMode, ProbeInfo, Reason, SampleRef, SampleVerdict, State, Step, Verdict

if TYPE_CHECKING:
    from tests.trainer.conftest import House, Open

Stream = tuple[Tensor, Tensor]


def weights(trainer: Trainer) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in trainer.publication.weights.items()}


def hold_one(house: House, stream: Stream) -> tuple[Trainer, Held]:
    """Learn some of the stream; a sample that is held."""
    house.post(stream[0][:100], stream[1][:100])
    trainer = house.drain()
    return trainer, next(sample for sample in house.held if sample.verdict.reason is Reason.SAMPLE)


def bold(house: House, *, gate: bool = True) -> Any:
    """A config under which a single wrong sample hurts."""
    return replace(
        house.trainer().engine.config,
        learner=LearnerConfig(lr=8.0),
        gate=GateConfig(enabled=gate),
    )


class TestRelease:
    @pytest.mark.parametrize("corrected", [False, True])
    def test_a_released_sample_is_learned_with_the_reviewers_label(
        self, house: House, stream: Stream, corrected: bool
    ) -> None:
        before, held = hold_one(house, stream)
        relabel = (held.label - 1) % 3 if corrected else None
        entry = house.order(EntryKind.RELEASE, ids=[held.id], note=None, label=relabel, force=False, by="rae")
        trainer = house.drain()
        number = trainer.status.step
        assert house.outcome(entry) == {"state": "released", "step": number, "ids": [held.id], "refused": []}
        after = house.stores.quarantine.get(held.id)
        assert (after.state, after.resolved_by, after.relabel) == (HeldState.RELEASED, "rae", relabel)
        assert after.resolved_at == entry.created_at
        (line,) = [line for line in house.stores.journal.samples(held.batch) if line.index == held.index]
        assert (line.step, line.verdict) == (number, SampleVerdict(Verdict.ACCEPT, Reason.RELEASED))
        sample = codec.load(held.payload)
        y = sample.y if relabel is None else torch.tensor([relabel])
        twin = before.engine
        twin.process(Step(number, sample.x, y, [SampleRef(held.batch, held.index)], [held.producer], released=True))
        assert weights(trainer) == {name: tensor.numpy().tobytes() for name, tensor in twin.weights().items()}

    def test_the_gate_may_refuse_it_and_an_admin_may_force_it(self, house: House, stream: Stream) -> None:
        _, held = hold_one(house, stream)
        kept = weights(house.trainer())
        config = bold(house)
        refused = house.order(EntryKind.RELEASE, ids=[held.id], note=None, label=None, force=False)
        trainer = house.drain(engine=config)
        assert house.outcome(refused)["state"] == "release_vetoed"
        assert house.stores.quarantine.get(held.id).state is HeldState.RELEASE_VETOED
        assert weights(trainer) == kept
        (line,) = [line for line in house.stores.journal.samples(held.batch) if line.index == held.index]
        assert line.verdict == SampleVerdict(Verdict.QUARANTINE, Reason.VETO)
        assert house.decisions[-1].vetoed
        forced = house.order(EntryKind.RELEASE, ids=[held.id], note=None, label=None, force=True)
        trainer = house.drain(engine=config)
        assert house.outcome(forced)["state"] == "released"
        assert house.stores.quarantine.get(held.id).state is HeldState.RELEASED
        assert weights(trainer) != kept

    def test_a_release_is_no_evidence_against_its_producer(self, house: House, stream: Stream) -> None:
        before, held = hold_one(house, stream)
        house.order(EntryKind.RELEASE, ids=[held.id], note=None, label=None, force=False)
        assert house.drain().status.producers == before.status.producers

    def test_an_unknown_sample_is_an_error_and_the_trainer_goes_on(self, house: House, stream: Stream) -> None:
        entry = house.order(EntryKind.RELEASE, ids=["b_none:3"], note=None, label=None, force=False)
        house.post(*stream)
        trainer = house.drain()
        assert house.outcome(entry)["error"]["code"] == "not_found"
        assert "b_none:3" in house.outcome(entry)["error"]["detail"]
        assert trainer.status.failure is None
        assert sum(house.cuts) == 230


class TestRollback:
    def test_older_weights_come_back_and_what_came_since_is_not_learned_again(
        self, house: House, stream: Stream
    ) -> None:
        x, y = stream
        (early,) = house.post(x[:60], y[:60])
        old = house.drain()
        target, _ = house.newest
        (late,) = house.post(x[60:140], y[60:140])
        assert weights(house.drain()) != weights(old)
        entry = house.order(EntryKind.ROLLBACK, checkpoint=target.id)
        trainer = house.drain()
        written = house.stores.checkpoints.all()[-2]  # the last is that of the stop
        assert house.outcome(entry) == {"restored": target.id, "checkpoint": written.id, "step": 8, "steps": 4}
        assert written.reason == f"rollback to {target.id}"
        assert written.cursor == Cursor(house.stores.log.tail(), 0)
        assert weights(trainer) == weights(old)
        assert trainer.status.rollbacks == 1
        assert trainer.status.updates == old.status.updates
        assert sum(house.cuts) == 140
        lines = house.stores.journal.samples
        assert {line.rolled_back for line in lines(early.id)} == {False}
        assert {line.rolled_back for line in lines(late.id)} == {True}

    def test_the_stream_goes_on_after_it_with_new_step_numbers(self, house: House, stream: Stream) -> None:
        x, y = stream
        house.post(x[:60], y[:60])
        house.drain()
        target, _ = house.newest
        house.post(x[60:100], y[60:100])
        house.order(EntryKind.ROLLBACK, checkpoint=target.id)
        (after,) = house.post(x[100:], y[100:])
        house.drain()
        found = house.stores.journal.samples(after.id)
        assert len(found) == 130
        assert not any(line.rolled_back for line in found)
        steps = [decision.step for decision in house.decisions]
        assert steps == list(range(1, len(steps) + 1))

    def test_what_was_released_into_weights_that_are_gone_is_held_again(self, house: House, stream: Stream) -> None:
        house.post(*stream)
        house.drain()
        early, late = house.held[:2]
        house.order(EntryKind.RELEASE, ids=[early.id], label=None, force=True, note=None)
        house.drain()
        target = house.newest[0]
        house.order(EntryKind.RELEASE, ids=[late.id], label=None, force=True, note=None)
        house.drain()
        house.order(EntryKind.ROLLBACK, checkpoint=target.id)
        house.drain()
        get = house.stores.quarantine.get
        assert (get(early.id).state, get(late.id).state) == (HeldState.RELEASED, HeldState.HELD)
        again = house.order(EntryKind.RELEASE, ids=[late.id], label=None, force=True, note=None)
        house.drain()
        assert house.outcome(again)["state"] == "released"

    def test_a_rollback_of_a_rollback_brings_back_what_that_undid(self, house: House, stream: Stream) -> None:
        x, y = stream
        batches, checkpoints = [], []
        for at in range(0, 120, 40):
            batches += house.post(x[at : at + 40], y[at : at + 40])
            house.drain()
            checkpoints.append(house.newest[0])

        def undone() -> list[bool]:
            return [any(line.rolled_back for line in house.stores.journal.samples(batch.id)) for batch in batches]

        house.order(EntryKind.ROLLBACK, checkpoint=checkpoints[0].id)
        batches += house.post(x[120:160], y[120:160])
        house.drain()
        assert undone() == [False, True, True, False]
        house.order(EntryKind.ROLLBACK, checkpoint=checkpoints[1].id)
        house.drain()
        assert undone() == [False, False, True, True]

    @pytest.mark.parametrize("written", [False, True])
    def test_one_that_was_cut_off_after_its_checkpoint_still_has_its_answer(
        self, house: House, stream: Stream, written: bool
    ) -> None:
        """The checkpoint's cursor is after the command: nobody comes to it again."""
        house.post(*stream)
        house.drain()
        entry = house.order(EntryKind.ROLLBACK, checkpoint="00000001-0")
        assert (
            house.drain(
                stores=replace(house.stores, journal=dying(house.stores.journal, written=written))
            ).status.failure
            is not None
        )
        trainer = house.drain()
        given = house.outcome(entry)
        assert (given["restored"], given["steps"]) == ("00000001-0", 12)
        assert given["checkpoint"] in {info.id for info in house.stores.checkpoints.all()}
        assert trainer.status.rollbacks == 1
        assert [d.command for d in house.decisions].count(entry.id) == 1

    def test_a_rollback_to_where_it_stands_undoes_no_step(self, house: House, stream: Stream) -> None:
        house.post(*stream)
        before = house.drain()
        entry = house.order(EntryKind.ROLLBACK, checkpoint=house.newest[0].id)
        after = house.drain()
        assert house.outcome(entry)["steps"] == 0
        assert weights(after) == weights(before)

    @pytest.mark.parametrize("damage", [None, "tensors.safetensors"])
    def test_a_checkpoint_that_is_not_there_or_is_damaged_is_an_error(
        self, house: House, stream: Stream, tmp_path: Any, damage: str | None
    ) -> None:
        target = house.newest[0].id if damage else "00000009-1"
        house.post(*stream)
        before = house.drain()
        if damage:
            file = tmp_path / "house" / "checkpoints" / target / damage
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
        entry = house.order(EntryKind.ROLLBACK, checkpoint=target)
        after = house.drain()
        assert house.outcome(entry)["error"]["code"] == ("damaged_checkpoint" if damage else "not_found")
        assert (after.status.failure, after.status.rollbacks) == (None, 0)
        assert weights(after) == weights(before)


def test_a_checkpoint_is_written_when_asked_for(house: House, stream: Stream) -> None:
    house.post(*stream)
    entry = house.order(EntryKind.CHECKPOINT, reason="before the fair")
    house.drain()
    written = CheckpointInfo(**{**house.outcome(entry), "cursor": Cursor(*house.outcome(entry)["cursor"])})
    assert written in house.stores.checkpoints.all()
    assert (written.reason, written.step, written.cursor) == ("before the fair", 13, Cursor(2, 0))


class TestProbe:
    def test_a_new_probe_set_is_taken_with_who_and_when(self, house: House, stream: Stream) -> None:
        x, y = torch.rand(400, 6), torch.arange(400) % 3
        entry = house.append(EntryKind.PROBE, codec.encode(Batch(x, y)), by="pam")
        trainer = house.drain()
        given = house.outcome(entry)
        info = ProbeInfo(**{**given, "per_class": tuple(given["per_class"])})
        assert trainer.status.probe == info
        assert (info.size, info.source, info.created_at) == (400, "pam", entry.created_at)
        assert house.drain().status.probe == info

    @pytest.mark.parametrize(
        ("x", "y", "code", "says"),
        [
            (torch.rand(60, 6), torch.arange(60) % 3, "probe_too_small", "60 samples"),
            (torch.rand(300, 6), torch.zeros(300).long(), "probe_class_missing", "class 1: 0"),
            (torch.rand(300, 5), torch.arange(300) % 3, "invalid_probe", "5"),
            (torch.rand(300, 6), torch.arange(300) % 4, "invalid_probe", "the label 3"),
        ],
        ids=["small", "class missing", "shape", "label"],
    )
    def test_one_that_does_not_fit_is_an_error_with_its_field_and_changes_nothing(
        self, house: House, stream: Stream, x: Tensor, y: Tensor, code: str, says: str
    ) -> None:
        entry = house.append(EntryKind.PROBE, codec.encode(Batch(x, y)))
        house.post(*stream)
        trainer = house.drain()
        error = house.outcome(entry)["error"]
        assert error["code"] == code
        assert set(error) == {"code", "detail", "field", "seen", "expected"}
        assert error["field"] == "probe"
        assert says in error["seen"]
        assert error["expected"]
        assert trainer.status.failure is None
        assert trainer.status.probe is not None
        assert trainer.status.probe.source == "tests"
        assert sum(house.cuts) == 230


class TestMode:
    def test_a_mode_is_in_force_for_what_follows_and_after_a_restart(self, house: House, stream: Stream) -> None:
        x, y = stream
        house.post(x[:60], y[:60])
        entry = house.order(EntryKind.MODE, mode="observe")
        (after,) = house.post(x[60:], y[60:])
        trainer = house.drain()
        assert house.outcome(entry) == {"mode": "observe", "armed": False}
        assert {line.verdict.verdict for line in house.stores.journal.samples(after.id)} == {Verdict.ACCEPT}
        assert trainer.status.unarmed_because == "the mode is observe"
        assert house.trainer().status.mode is GuardMode.OBSERVE
        back = house.order(EntryKind.MODE, mode="weir")
        assert house.drain().status.armed
        assert house.outcome(back) == {"mode": "weir", "armed": True}

    def test_a_mode_that_the_probe_set_does_not_carry_is_an_error(self, house: House, stream: Stream) -> None:
        config = replace(house.trainer().engine.config, guard=GuardConfig(mode=GuardMode.OFF, sample_rate=0.001))
        entry = house.order(EntryKind.MODE, mode="weir")
        house.post(*stream)
        trainer = house.drain(engine=config)
        assert house.outcome(entry)["error"]["code"] == "probe_too_small"
        assert (trainer.status.failure, trainer.status.mode) == (None, GuardMode.OFF)


def test_commands_take_effect_at_their_place_in_the_log(open_house: Open, stream: Stream) -> None:
    """One log with a command in it, learned in one go and in three."""
    x, y = stream

    def first(house: House) -> None:
        house.post(x[:70], y[:70])

    def second(house: House) -> None:
        house.order(EntryKind.MODE, mode="observe")
        house.post(x[70:150], y[70:150])

    def third(house: House) -> None:
        house.order(EntryKind.MODE, mode="weir")
        house.post(x[150:], y[150:])

    whole, parts = open_house("whole"), open_house("parts")
    for part in (first, second, third):
        part(whole)
        part(parts)
        trainer = parts.drain()
    assert weights(whole.drain()) == weights(trainer)
    assert whole.verdicts == parts.verdicts
    assert whole.cuts == parts.cuts == [20, 20, 20, 10, 20, 20, 20, 20, 20, 20, 20, 20]


def test_an_engine_is_restored_whole(house: House, stream: Stream, trained: State) -> None:
    """What a trainer starts from is what the checkpoint holds."""
    trainer = house.trainer()
    engine = Engine(trainer.engine.recipe, trainer.engine.config)
    engine.load_state(trained)
    state = trainer.engine.state()
    assert dict(state.values) == dict(engine.state().values)
    assert all(torch.equal(tensor, engine.state().tensors[name]) for name, tensor in state.tensors.items())
