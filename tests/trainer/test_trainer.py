"""The trainer over real stores: the same steps however samples come, and everything it says about itself."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.trainer.conftest import CONFIG
from torch import Tensor

from weir import codec
from weir.core import Engine
from weir.errors import NotReady
from weir.redteam import Cocktail
from weir.stores.base import Cursor, Held, HeldState, Journal, Log, Quarantine
from weir.trainer import Trainer, initialise
from weir.trainer.thread import NICENESS
from weir.types import SampleRef, SampleVerdict, State, Step, StepReport, Verdict

if TYPE_CHECKING:
    from tests.trainer.conftest import House, Open

Stream = tuple[Tensor, Tensor]


def weights(trainer: Trainer) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in trainer.publication.weights.items()}


def test_a_folder_without_a_model_is_refused_with_the_cure(open_house: Open) -> None:
    with pytest.raises(NotReady, match="weir burnin"):
        open_house(empty=True).trainer()


class TestDeliveries:
    @pytest.mark.parametrize("size", [1, 7, 100])
    def test_the_same_samples_give_the_same_verdicts_and_weights_however_they_are_posted(
        self, open_house: Open, stream: Stream, size: int
    ) -> None:
        whole, cut = open_house("whole"), open_house("cut")
        whole.post(*stream)
        cut.post(*stream, size=size)
        one, other = whole.drain(), cut.drain()
        assert cut.cuts == whole.cuts == [20] * 11 + [10]
        assert cut.verdicts == whole.verdicts
        assert {v.verdict for v in whole.verdicts} >= {Verdict.ACCEPT, Verdict.QUARANTINE}
        assert weights(other) == weights(one)
        assert cut.held_anonymously == whole.held_anonymously

    def test_the_trainer_does_what_the_bare_engine_does(self, house: House, stream: Stream, trained: State) -> None:
        entries = house.post(*stream, size=30)
        trainer = house.drain()
        engine = Engine(trainer.engine.recipe, trainer.engine.config)
        engine.load_state(trained)
        refs = [SampleRef(entry.id, index) for entry in entries for index in range(entry.samples)]
        verdicts: list[SampleVerdict] = []
        for number, at in enumerate(range(0, 230, 20), 1):
            rows = slice(at, at + 20)
            x, y = stream[0][rows], stream[1][rows]
            report = engine.process(Step(number, x, y, refs[rows], ["ann"] * len(y)))
            verdicts += report.verdicts
        assert house.verdicts == verdicts
        assert weights(trainer) == {name: tensor.numpy().tobytes() for name, tensor in engine.weights().items()}

    def test_a_step_takes_samples_of_several_producers_in_log_order(self, house: House, stream: Stream) -> None:
        x, y = stream
        house.post(x[:15], y[:15], by="ann")
        house.post(x[15:40], y[15:40], by="bob")
        reports: list[StepReport] = []
        house.drain(listeners=[reports.append])
        assert [report.producers for report in reports] == [("ann",) * 15 + ("bob",) * 5, ("bob",) * 20]

    def test_what_is_held_is_kept_as_it_was_sent(self, house: House, stream: Stream) -> None:
        x, y = stream
        whole = (x * 255).to(torch.uint8)
        (entry,) = house.post(whole, y, by="eve")
        house.drain()
        rows = [row for row, v in enumerate(house.verdicts) if v.verdict is Verdict.QUARANTINE]
        assert rows
        assert [sample.id for sample in house.held] == [f"{entry.id}:{row}" for row in rows]
        for row, sample in zip(rows, house.held, strict=True):
            kept = codec.load(sample.payload)
            assert torch.equal(kept.x[0], whole[row])
            assert kept.x.dtype == torch.uint8
            assert kept.y.tolist() == [sample.label] == [int(y[row])]
            assert (sample.producer, sample.sample_id, sample.state) == ("eve", f"s{row}", HeldState.HELD)
            assert sample.verdict == house.verdicts[row]
            assert sample.step == row // 20 + 1

    def test_a_partial_step_is_cut_when_nothing_more_comes(self, house: House, stream: Stream) -> None:
        trainer = house.trainer(step_linger_seconds=0.01)
        trainer.start()
        (first,) = house.post(stream[0][:5], stream[1][:5])
        assert house.stores.journal.wait(first.id, 5, 30)
        (second,) = house.post(stream[0][5:32], stream[1][5:32])
        assert house.stores.journal.wait(second.id, 27, 30)
        trainer.stop()
        assert house.cuts == [5, 20, 7]

    def test_a_trickle_does_not_keep_a_partial_step_waiting(self, house: House, stream: Stream) -> None:
        """As long as samples go on coming the step would never be cut if each of them began the wait anew."""
        (first,) = house.post(stream[0][:1], stream[1][:1])
        real = house.stores.log

        class Trickle:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def wait(self, after: int, timeout: float) -> bool:
                if real.tail() < 2_000:
                    house.post(stream[0][:1], stream[1][:1])
                return real.wait(after, timeout)

        log: Log = Trickle()
        engine = replace(CONFIG, step_size=100_000)
        trainer = house.trainer(stores=replace(house.stores, log=log), engine=engine, step_linger_seconds=0.05)
        trainer.start()
        decided = house.stores.journal.wait(first.id, 1, 30)
        assert decided
        assert real.tail() < 2_000
        trainer.stop()


class TestOrder:
    def test_the_journal_is_written_before_the_quarantine(self, house: House, stream: Stream) -> None:
        house.post(*stream)
        journal, real = house.stores.journal, house.stores.quarantine
        seen: list[set[str]] = []

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def put(self, samples: Iterable[Held]) -> None:
                held = list(samples)
                for sample in held:
                    line = {line.index: line for line in journal.samples(sample.batch)}[sample.index]
                    assert line.verdict == sample.verdict
                    assert line.step == sample.step
                seen.append({sample.id for sample in held})
                real.put(held)

        quarantine: Quarantine = Watched()
        trainer = house.drain(stores=replace(house.stores, quarantine=quarantine))
        assert trainer.status.failure is None
        assert seen
        assert set().union(*seen) == {sample.id for sample in house.held}

    def test_nothing_outside_hears_of_a_step_that_is_not_in_the_journal(self, house: House, stream: Stream) -> None:
        house.post(*stream)
        heard: list[int] = []

        def listen(report: StepReport) -> None:
            heard.append(report.step)
            assert house.decisions[-1].step == report.step
            assert house.decisions[-1].verdicts == report.verdicts

        trainer = house.drain(listeners=[listen])
        assert trainer.status.failure is None
        assert heard == list(range(1, 13))

    def test_a_journal_that_fails_stops_the_trainer_before_the_effect(self, house: House, stream: Stream) -> None:
        house.post(*stream)
        real = house.stores.journal

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def record(self, decision: object) -> None:
                raise OSError("no space left")

        journal: Journal = Full()
        trainer = house.drain(stores=replace(house.stores, journal=journal))
        assert trainer.status.failure == "OSError: no space left"
        assert house.held == []
        assert trainer.publication.step == 0


class TestLife:
    def test_a_new_trainer_has_published_and_is_not_alive(self, house: House) -> None:
        trainer = house.trainer()
        assert trainer.publication.step == 0
        status = trainer.status
        assert (status.alive, status.failure, status.step, status.updates, status.position) == (False, None, 0, 0, 0)
        assert status.armed
        assert status.checkpoint == house.newest[0].id
        assert status.probe is not None
        assert status.probe.size == 300

    def test_it_is_alive_from_the_start_and_learns_without_being_asked(self, house: House, stream: Stream) -> None:
        trainer = house.trainer()
        trainer.start()
        begun = trainer.status
        (entry,) = house.post(*stream)
        assert house.stores.journal.wait(entry.id, 230, 30)
        trainer.stop()
        ended = trainer.status
        assert (begun.alive, ended.alive, ended.failure) == (True, False, None)

    def test_from_the_start_only_the_trainers_thread_touches_the_engine(
        self, house: House, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = house.trainer()
        house.post(*stream)
        threads: set[str] = set()
        real = trainer.engine.network.outputs

        def watched(*given: Any, **named: Any) -> Any:
            threads.add(threading.current_thread().name)
            return real(*given, **named)

        monkeypatch.setattr(trainer.engine.network, "outputs", watched)
        trainer.start()
        assert trainer.status.alive
        assert trainer.publication.predict(stream[0]).shape == (230, 3)
        trainer.stop()
        assert threads == {"weir-trainer"}

    def test_stop_learns_what_is_left_and_writes_a_checkpoint(self, house: House, stream: Stream) -> None:
        house.post(*stream, size=7)
        trainer = house.drain()
        info, _ = house.newest
        assert (info.reason, info.step, info.cursor) == ("stop", 12, Cursor(33, 0))
        assert trainer.status.checkpoint == info.id
        assert trainer.status.position == house.stores.log.tail() == 33
        assert house.stores.log.backlog().batches == 0
        assert sum(house.cuts) == 230

    def test_a_long_linger_does_not_keep_a_stop_waiting(self, house: House, stream: Stream) -> None:
        real = house.stores.log
        waited: list[float] = []
        waiting = threading.Event()

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def wait(self, after: int, timeout: float) -> bool:
                waited.append(timeout)
                waiting.set()
                return real.wait(after, 0.01)

        log: Log = Watched()
        trainer = house.trainer(stores=replace(house.stores, log=log), step_linger_seconds=3_600)
        house.post(stream[0][:5], stream[1][:5])
        trainer.start()
        assert waiting.wait(30)
        trainer.stop()
        assert max(waited) <= 1
        assert house.cuts == [5]

    def test_stop_without_time_writes_a_checkpoint_all_the_same(self, house: House, stream: Stream) -> None:
        trainer = house.trainer()
        trainer.start()
        trainer.stop(drain_seconds=0)
        assert house.newest[0].reason == "stop"
        house.post(*stream)
        assert house.drain().status.step == 12

    def test_stopping_twice_or_before_the_start_does_no_harm(self, house: House) -> None:
        trainer = house.trainer()
        trainer.stop()
        assert house.newest[0].reason == "burn-in"
        other = house.trainer()
        other.start()
        other.stop()
        other.stop()
        assert house.newest[0].reason == "stop"

    def test_after_a_stop_nothing_is_learned_again(self, house: House, stream: Stream) -> None:
        house.post(*stream)
        first = house.drain()
        bits, decisions = house.bits, house.decisions
        second = house.drain()
        assert weights(second) == weights(first)
        assert house.bits == bits
        assert house.decisions == decisions

    def test_a_failure_is_told_and_stays_told(
        self, house: House, stream: Stream, caplog: pytest.LogCaptureFixture
    ) -> None:
        house.post(*stream)

        def fail(report: StepReport) -> None:
            if report.step == 3:
                raise ZeroDivisionError("of all things")

        with caplog.at_level(logging.ERROR):
            trainer = house.drain(listeners=[fail])
        status = trainer.status
        assert (status.alive, status.failure) == (False, "ZeroDivisionError: of all things")
        assert "the trainer stopped at step 3" in caplog.text
        assert house.newest[0].reason == "burn-in"

    def test_an_engine_that_fails_for_good_does_not_hide_its_death(
        self, house: House, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.post(*stream, size=10)
        trainer = house.trainer()

        def broken(*given: object, **named: object) -> None:
            raise RuntimeError("device lost")

        monkeypatch.setattr(Engine, "process", broken)
        trainer.start()
        trainer.stop()
        assert (trainer.status.alive, trainer.status.failure) == (False, "RuntimeError: device lost")
        letters, _ = house.stores.dead_letters.page(None, 100)
        assert len(letters) == 3, "the whole stream was blamed for what the engine did"

    @pytest.mark.parametrize("every", [1, 5])
    def test_a_checkpoint_is_written_every_so_many_steps(self, house: House, stream: Stream, every: int) -> None:
        house.post(*stream)
        seen: list[str | None] = []
        trainer = house.trainer(
            checkpoint_every=every, listeners=[lambda report: seen.append(trainer.status.checkpoint)]
        )
        trainer.start()
        trainer.stop(drain_seconds=30)
        found = [info for info in house.stores.checkpoints.all() if info.reason == "every"]
        assert [info.step for info in found] == list(range(every, 13, every))
        assert [info.cursor for info in found][:1] == [Cursor(0, 20 * every)]
        assert seen[every] == found[0].id  # told with the step that it was written after

    def test_a_publication_never_changes(self, house: House, stream: Stream) -> None:
        published: list[tuple[int, Tensor]] = []
        trainer = house.trainer(listeners=[lambda report: look()])

        def look() -> None:
            now = trainer.publication
            published.append((now.step, now.predict(stream[0])))

        first = trainer.publication
        then = first.predict(stream[0])
        kept = {name: tensor.clone() for name, tensor in first.weights.items()}
        house.post(*stream)
        trainer.start()
        trainer.stop(drain_seconds=30)
        assert torch.equal(first.predict(stream[0]), then)
        assert all(torch.equal(tensor, kept[name]) for name, tensor in first.weights.items())
        assert [step for step, _ in published] == list(range(12))
        assert not torch.equal(trainer.publication.predict(stream[0]), then)
        assert torch.equal(trainer.publication.predict(stream[0]), trainer.engine.predict(stream[0]))

    def test_status_tells_what_the_reports_told(self, house: House, stream: Stream) -> None:
        house.post(*stream)
        reports: list[StepReport] = []
        status = house.drain(listeners=[reports.append]).status
        last = reports[-1]
        assert status.step == last.step == 12
        assert status.updates == last.updates == sum(report.updated for report in reports)
        assert status.probe_accuracy == last.probe_accuracy
        assert status.progressive_accuracy == last.progressive_accuracy
        assert status.sample_threshold == last.sample_threshold
        (record,) = status.producers
        assert (record.producer, record.seen) == ("ann", 230)
        assert record.held == sum(report.counts[Verdict.QUARANTINE] for report in reports) == len(house.held)
        assert status.vetoes == sum(report.vetoed for report in reports)


def test_the_first_checkpoint_stands_at_the_end_of_the_log(open_house: Open, stream: Stream, trained: State) -> None:
    """What was posted before the model existed is not learned by it."""
    model = open_house("other").trainer().engine
    house = open_house(empty=True)
    house.post(*stream)
    info = initialise(house.stores, model, at=5.0)
    assert (info.cursor, info.step, info.reason, info.created_at) == (Cursor(1), 0, "burn-in", 5.0)
    house.drain()
    assert house.cuts == []


def test_the_learning_thread_lets_the_others_go_first(house: House, stream: Stream) -> None:
    found: list[int] = []

    def note(report: StepReport) -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    house.post(*stream)
    house.drain(listeners=[note])
    assert set(found) == {min(19, before + NICENESS)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_every_stage_of_a_step_says_how_long_it_took(house: House, stream: Stream) -> None:
    """The metrics tell it; an engine that is given no clock says nought."""
    reports: list[StepReport] = []
    house.post(*stream)
    house.drain(listeners=[reports.append])
    assert len(reports) > 1
    for report in reports:
        assert {"score", "guard", "learn"} <= set(report.seconds)
        assert all(seconds > 0 for seconds in report.seconds.values())


def test_a_step_that_takes_long_for_its_vaccine_says_so_first(
    open_house: Open, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a large model it takes a minute and more, in which nothing else would be heard."""
    house = open_house()
    house.post(*stream)
    with caplog.at_level(logging.INFO):
        trainer = house.drain(poisoner=Cocktail())
    assert trainer.status.vaccine_age is not None
    said = [record.getMessage() for record in caplog.records if "poison looks like" in record.getMessage()]
    assert said == ["step 1: the guard learns what poison looks like; it takes as long as many steps"]
    assert any(record.getMessage().startswith("step 1: the guard took ") for record in caplog.records)
