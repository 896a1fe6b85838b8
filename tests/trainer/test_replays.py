"""Replays: the log learned again without some of it, compared, and published as if that had never come."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.trainer.conftest import dying
from torch import Tensor

from weir import codec
from weir.core import Engine
from weir.errors import Conflict, NotFound
from weir.stores.base import Entry, EntryKind, HeldState
from weir.trainer import Trainer
from weir.types import (
    GuardMode,
    ReplayOrder,
    ReplayReport,
    ReplayState,
    ReplayVerdicts,
    SampleRef,
    State,
    Step,
    Verdict,
)

if TYPE_CHECKING:
    from tests.trainer.conftest import House, Open

Stream = tuple[Tensor, Tensor]
ANEW, RECORDED = ReplayVerdicts.ANEW, ReplayVerdicts.RECORDED
FIRST = "00000001-0"


def weights(house: House) -> dict[str, bytes]:
    """Model and optimizer in the newest checkpoint."""
    return {name: bits for name, bits in house.bits.items() if name.startswith("engine/learner/")}


def deliver(house: House, stream: Stream, *, mallory: bool = True) -> None:
    """Ann's and Bob's samples, and Mallory's wrong ones between them."""
    x, y = stream
    house.post(x[:45], y[:45], size=7, by="ann")
    if mallory:
        house.post(x[45:80], (y[45:80] + 1) % 3, size=5, by="mallory")
    house.post(x[80:140], y[80:140], by="bob")
    house.order(EntryKind.MODE, mode="observe")
    if mallory:
        house.post(x[140:150], (y[140:150] + 1) % 3, by="mallory")
    house.post(x[150:170], y[150:170], size=1, by="ann")
    house.order(EntryKind.MODE, mode="weir")
    house.post(x[170:], y[170:], size=40, by="bob")


@contextmanager
def running(house: House, **how: Any) -> Iterator[Trainer]:
    trainer = house.trainer(**how)
    trainer.start()
    yield trainer
    trainer.stop(drain_seconds=30.0)
    assert trainer.status.failure is None


def finish(trainer: Trainer, order: ReplayOrder) -> ReplayReport:
    """Run a replay to its end."""
    report = trainer.replays.start(order, by="adi")
    deadline = threading.Event()
    for _ in range(3_000):
        report = trainer.replays.get(report.id)
        if report.state is not ReplayState.RUNNING:
            return report
        deadline.wait(0.01)
    raise AssertionError(f"the replay did not end: {report}")


def publish(house: House, report: ReplayReport) -> Entry:
    return house.order(EntryKind.REPLAY, candidate=report.candidate, order=asdict(report.order))


def replayed(house: House, order: ReplayOrder, **how: Any) -> tuple[ReplayReport, dict[str, Any]]:
    """Replay and publish; the report and what the command gave."""
    with running(house, **how) as trainer:
        report = finish(trainer, order)
        assert report.state is ReplayState.DONE, report.error
        entry = publish(house, report)
    return report, house.outcome(entry)


def test_judged_anew_it_is_as_if_the_producer_had_never_come(open_house: Open, stream: Stream) -> None:
    clean, house = open_house("clean"), open_house("poisoned")
    deliver(clean, stream, mallory=False)
    deliver(house, stream)
    clean.drain()
    house.drain()
    assert weights(house) != weights(clean)
    report, outcome = replayed(house, ReplayOrder(FIRST, producers=("mallory",), verdicts=ANEW))
    assert weights(house) == weights(clean)
    assert outcome["left_out"] == 45
    assert outcome["accuracy"] == clean.trainer().status.probe_accuracy
    assert report.learned + report.held <= 185


def test_by_the_record_it_is_as_if_those_verdicts_had_been_given_without_the_producer(
    house: House, stream: Stream, trained: State
) -> None:
    deliver(house, stream)
    config = house.drain().engine.config
    decisions = house.decisions
    entries = {entry.id: entry for entry in house.stores.log.read(0, 1_000)}
    twin = Engine(house.trainer().engine.recipe, config)
    twin.load_state(trained)
    samples = _samples(house)
    for decision in decisions:
        if decision.command is not None:
            twin.set_mode(GuardMode(json.loads(entries[decision.command].payload)["mode"]))
            continue
        lines = [
            (ref, verdict)
            for ref, verdict in zip(decision.refs, decision.verdicts, strict=True)
            if entries[ref.batch].producer != "mallory"
        ]
        if lines:
            refs = [ref for ref, _ in lines]
            x, y = (torch.stack([samples[ref][part] for ref in refs]) for part in (0, 1))
            producers = [entries[ref.batch].producer for ref in refs]
            twin.process(Step(decision.step, x, y, refs, producers), [verdict for _, verdict in lines])
    _, outcome = replayed(house, ReplayOrder(FIRST, producers=("mallory",)))
    expected = {name: tensor.numpy().tobytes() for name, tensor in twin.weights().items()}
    found = house.newest[1].part("engine").part("learner").part("weights").tensors
    assert {name: tensor.numpy().tobytes() for name, tensor in found.items()} == expected
    assert outcome["accuracy"] == twin.probe_accuracy()


def test_without_anything_left_out_the_record_gives_the_same_weights(house: House, stream: Stream) -> None:
    deliver(house, stream)
    house.drain()
    sample = house.held[0]
    house.order(EntryKind.RELEASE, ids=[sample.id], label=(sample.label - 1) % 3, force=False, note=None)
    house.drain()
    before, held = weights(house), {s.id: s.state for s in house.held}
    replayed(house, ReplayOrder(FIRST))
    assert weights(house) == before
    assert {s.id: s.state for s in house.held} == held


def test_a_batch_or_a_sample_can_be_left_out(open_house: Open, stream: Stream) -> None:
    x, y = stream
    clean, house = open_house("clean"), open_house("house")
    clean.post(x[:100], y[:100], size=20)
    clean.post(x[121:], y[121:])
    house.post(x[:100], y[:100], size=20)
    (batch,) = house.post(x[100:120], y[100:120])
    (mixed,) = house.post(x[120:], y[120:])
    clean.drain()
    house.drain()
    order = ReplayOrder(FIRST, batches=(batch.id,), samples=(f"{mixed.id}:0",), verdicts=ANEW)
    _, outcome = replayed(house, order)
    assert weights(house) == weights(clean)
    assert outcome["left_out"] == 21


def test_what_a_reviewer_discarded_is_left_out(house: House, stream: Stream) -> None:
    deliver(house, stream)
    house.drain()
    sample = house.held[0]
    house.stores.quarantine.move(sample.id, HeldState.DISCARDED, expect=[HeldState.HELD], by="rae")
    with running(house) as trainer:
        report = finish(trainer, ReplayOrder(FIRST, verdicts=ANEW))
    assert report.order.samples == (sample.id,)
    assert report.left_out == 1


def test_what_was_posted_meanwhile_is_learned_too(open_house: Open, stream: Stream) -> None:
    x, y = stream
    clean, house = open_house("clean"), open_house("house")
    for each in (clean, house):
        each.post(x[:100], y[:100])
    house.post(x[100:120], (y[100:120] + 1) % 3, by="mallory")
    for each in (clean, house):
        each.drain()
    with running(house) as trainer:
        report = finish(trainer, ReplayOrder(FIRST, producers=("mallory",), verdicts=ANEW))
        house.post(x[120:170], y[120:170])
        entry = publish(house, report)
        assert house.stores.journal.wait(entry.id, 0, 30.0)
        house.post(x[170:], y[170:])
    clean.post(x[120:170], y[120:170])
    clean.order(EntryKind.CHECKPOINT, reason="at the same place")
    clean.post(x[170:], y[170:])
    clean.drain()
    assert weights(house) == weights(clean)


def test_batches_tell_what_became_of_them(house: House, stream: Stream) -> None:
    deliver(house, stream)
    house.drain()
    entries = {entry.id: entry.producer for entry in house.stores.log.read(0, 1_000) if entry.samples}
    held = {sample.id for sample in house.held}
    _, outcome = replayed(house, ReplayOrder(FIRST, producers=("mallory",), verdicts=ANEW))
    for batch, producer in entries.items():
        lines = house.stores.journal.samples(batch)
        assert all(line.rolled_back == (producer == "mallory") for line in lines), producer
        if producer != "mallory":
            assert {line.step for line in lines} == {outcome["step"]}
    now = {sample.id: sample for sample in house.held}
    verdicts = {
        f"{batch}:{line.index}": line.verdict.verdict
        for batch, producer in entries.items()
        if producer != "mallory"
        for line in house.stores.journal.samples(batch)
    }
    for id, verdict in verdicts.items():
        if verdict is Verdict.QUARANTINE:
            assert now[id].state is HeldState.HELD
        elif id in held:
            assert now[id].state is HeldState.RELEASED, "it was learned, and could be released once more"


@pytest.mark.parametrize("written", [False, True])
def test_a_publication_that_was_cut_off_is_made_good(open_house: Open, stream: Stream, written: bool) -> None:
    straight, house = open_house("straight"), open_house("crashed")
    outcomes = []
    for each in (straight, house):
        deliver(each, stream)
        each.drain()
        with running(each) as trainer:
            report = finish(trainer, ReplayOrder(FIRST, producers=("mallory",), verdicts=ANEW))
        entry = publish(each, report)
        if each is house:
            dead = each.drain(stores=replace(each.stores, journal=dying(each.stores.journal, written=written)))
            assert dead.status.failure is not None
        each.drain()
        outcomes.append(each.outcome(entry))
    assert outcomes[0] == outcomes[1]
    assert weights(house) == weights(straight)
    assert [s.state for s in house.held] == [s.state for s in straight.held]


def test_a_publication_is_done_again_when_its_checkpoint_is_damaged(
    house: House, stream: Stream, tmp_path: Path
) -> None:
    """The newest checkpoints do not verify: the learner falls back behind the replay and comes to it once more."""
    deliver(house, stream)
    house.drain()
    _, outcome = replayed(house, ReplayOrder(FIRST, producers=("mallory",), verdicts=ANEW))
    before, states = weights(house), {sample.id: sample.state for sample in house.held}
    for info in house.stores.checkpoints.all():
        if info.step >= outcome["step"]:
            (tmp_path / "house" / "checkpoints" / info.id / "tensors.safetensors").write_bytes(b"damaged")
    trainer = house.drain()
    assert trainer.status.failure is None
    assert weights(house) == before
    assert {sample.id: sample.state for sample in house.held} == states


def test_what_is_trimmed_or_erased_before_it_is_published_does_not_stop_the_learner(
    house: House, stream: Stream
) -> None:
    deliver(house, stream)
    house.drain()
    with running(house) as trainer:
        report = finish(trainer, ReplayOrder(FIRST))
    assert report.held, "nothing would have to be looked up when it is published"
    house.order(EntryKind.ERASE, producer=house.held[0].producer)
    entry = publish(house, report)
    assert house.drain().status.failure is None
    house.stores.log.trim(report.position, keep_bytes=0)
    again = publish(house, report)
    assert house.drain().status.failure is None
    assert house.outcome(entry)["candidate"] == house.outcome(again)["candidate"] == report.candidate


def test_a_replay_that_is_not_published_changes_nothing(house: House, stream: Stream) -> None:
    deliver(house, stream)
    house.drain()
    before, decisions = weights(house), house.decisions
    with running(house) as trainer:
        report = finish(trainer, ReplayOrder(FIRST, producers=("mallory",)))
        assert report.candidate is not None
    assert weights(house) == before
    assert house.decisions == decisions


class TestRefusals:
    def test_one_runs_at_a_time_and_can_be_cancelled(
        self, house: House, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deliver(house, stream)
        house.drain()
        begun, go_on = threading.Event(), threading.Event()
        real = Engine.process

        def slow(self: Engine, *given: Any) -> Any:
            begun.set()
            assert go_on.wait(30.0)
            return real(self, *given)

        with running(house) as trainer:
            monkeypatch.setattr(Engine, "process", slow)
            report = trainer.replays.start(ReplayOrder(FIRST), by="adi")
            assert begun.wait(30.0)
            with pytest.raises(Conflict) as refused:
                trainer.replays.start(ReplayOrder(FIRST), by="adi")
            assert refused.value.code == "replay_running"
            threading.Timer(0.1, go_on.set).start()
            assert trainer.replays.cancel(report.id).state is ReplayState.CANCELLED
            with pytest.raises(Conflict):
                trainer.replays.cancel(report.id)
        assert house.stores.candidates.all() == []

    def test_a_checkpoint_that_is_not_there_is_not_found(self, house: House) -> None:
        with running(house) as trainer, pytest.raises(NotFound):
            trainer.replays.start(ReplayOrder("00000009-9"), by="adi")

    def test_a_log_that_no_longer_reaches_back_is_said(self, house: House, stream: Stream) -> None:
        deliver(house, stream)
        house.drain()
        house.stores.log.trim(5, keep_bytes=0)
        with running(house) as trainer, pytest.raises(Conflict, match=r"begins after position 5.*WEIR_LOG_KEEP_BYTES"):
            trainer.replays.start(ReplayOrder(FIRST), by="adi")

    def test_a_log_that_is_trimmed_meanwhile_is_not_passed_over(
        self, house: House, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deliver(house, stream)
        house.drain()
        real = Engine.process

        def trimmed(self: Engine, *given: Any) -> Any:
            house.stores.log.trim(house.stores.log.tail(), keep_bytes=0)
            return real(self, *given)

        with running(house) as trainer:
            monkeypatch.setattr(Engine, "process", trimmed)
            report = finish(trainer, ReplayOrder(FIRST, verdicts=ANEW))
        assert report.state is ReplayState.FAILED
        assert report.error is not None
        assert "no longer reaches back" in report.error

    def test_one_that_fails_says_why(self, house: House, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
        deliver(house, stream)
        house.drain()

        def broken(*given: object) -> None:
            raise ArithmeticError("no such kernel")

        with running(house) as trainer:
            monkeypatch.setattr(Engine, "process", broken)
            report = finish(trainer, ReplayOrder(FIRST))
        assert (report.state, report.error) == (ReplayState.FAILED, "ArithmeticError: no such kernel")

    def test_a_candidate_that_is_gone_is_an_error(self, house: House) -> None:
        entry = house.order(EntryKind.REPLAY, candidate="00000001-3", order={})
        assert house.drain().status.failure is None
        assert house.outcome(entry)["error"]["code"] == "not_found"


def _samples(house: House) -> dict[SampleRef, tuple[Tensor, Tensor]]:
    found = {}
    for entry in house.stores.log.read(0, 1_000):
        if entry.kind is EntryKind.BATCH:
            batch = codec.load(entry.payload)
            for index in range(len(batch)):
                found[SampleRef(entry.id, index)] = (batch.x[index], batch.y[index])
    return found
