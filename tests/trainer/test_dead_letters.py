"""A batch that cannot be processed is tried again in place, then put aside with its error; the stream goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from torch import Tensor

from weir import codec
from weir.core import Engine
from weir.stores.base import Checkpoints, DeadLetter, EntryKind
from weir.types import Reason, Step, Verdict

if TYPE_CHECKING:
    from tests.trainer.conftest import House, Open

Stream = tuple[Tensor, Tensor]
Choke = Callable[[str, int], list[int]]


@pytest.fixture
def choke(monkeypatch: pytest.MonkeyPatch) -> Choke:
    """Make engines raise on steps that hold samples of a batch, so many times; returns what each try held."""
    real = Engine.process

    def on(batch: str, times: int) -> list[int]:
        tries: list[int] = []

        def process(self: Engine, step: Step, *rest: Any) -> Any:
            if any(ref.batch == batch for ref in step.refs) and len(tries) < times:
                tries.append(len(step.refs))
                real(self, step, *rest)  # it fails when the engine has changed already
                raise ArithmeticError("no such kernel")
            return real(self, step, *rest)

        monkeypatch.setattr(Engine, "process", process)
        return tries

    return on


def letters(house: House) -> list[DeadLetter]:
    return house.stores.dead_letters.page(None, 100)[0]


def test_a_failure_that_passes_leaves_no_trace(open_house: Open, stream: Stream, choke: Choke) -> None:
    straight, house = open_house("straight"), open_house("stumbled")
    straight.post(*stream, size=10)
    straight.drain()
    entries = house.post(*stream, size=10)
    tries = choke(entries[9].id, 2)
    assert house.drain().status.failure is None
    assert tries == [20, 20]
    assert letters(house) == []
    assert house.bits == straight.bits
    assert house.held_anonymously == straight.held_anonymously


def test_one_that_always_fails_is_put_aside_alone_and_the_stream_goes_on(
    open_house: Open, stream: Stream, choke: Choke, caplog: pytest.LogCaptureFixture
) -> None:
    house = open_house()
    entries = house.post(*stream, size=10)
    pill, neighbour = entries[9], entries[8]
    tries = choke(pill.id, 1_000)
    with caplog.at_level(logging.ERROR):
        trainer = house.drain()
    assert trainer.status.failure is None
    assert tries == [20, 20, 20, 10, 10, 10], "three tries with its neighbour, then three of its own"
    (letter,) = letters(house)
    assert (letter.batch, letter.first, letter.samples, letter.producer) == (pill.id, 0, 10, "ann")
    assert letter.error == "ArithmeticError: no such kernel"
    sent = codec.load(house.stores.dead_letters.get(letter.id).payload)
    assert sent.y.tolist() == stream[1][90:100].tolist()
    assert sent.ids == tuple(f"s{number}" for number in range(90, 100))
    assert {line.verdict.reason for line in house.stores.journal.samples(pill.id)} == {Reason.ERROR}
    assert len(house.stores.journal.samples(neighbour.id)) == 10
    assert sum(house.cuts) == 230
    assert "dead letters" in caplog.text


def test_what_is_dead_stays_dead_after_a_crash_and_changes_no_weights(
    open_house: Open, stream: Stream, choke: Choke
) -> None:
    without, house = open_house("without"), open_house("dead")
    x, y = stream
    without.post(x[:100], y[:100])
    without.post(x[120:], y[120:])
    without.drain()
    house.post(x[:100], y[:100])
    (pill,) = house.post(x[100:120], y[100:120])
    house.post(x[120:], y[120:])
    tries = choke(pill.id, 1_000)
    house.crash(9)
    assert len(tries) == 3
    house.drain()
    assert len(tries) == 3, "a decision on record was tried again"
    assert len(letters(house)) == 1
    weights = {name: bits for name, bits in house.bits.items() if "learner" in name}
    assert weights == {name: bits for name, bits in without.bits.items() if "learner" in name}


def test_a_restart_is_no_try(open_house: Open, stream: Stream, choke: Choke) -> None:
    house = open_house()
    (pill,) = house.post(stream[0][:20], stream[1][:20])
    tries = choke(pill.id, 4)
    real = house.stores.checkpoints

    class Dies:
        def __getattr__(self, name: str) -> Any:
            if name == "newest" and len(tries) == 2:
                raise SystemError("the power went out")
            return getattr(real, name)

    checkpoints: Checkpoints = Dies()
    assert house.drain(stores=replace(house.stores, checkpoints=checkpoints)).status.failure is not None
    assert len(tries) == 2
    assert house.drain().status.failure is None
    assert len(tries) == 4
    assert letters(house) == []
    assert house.cuts == [20]


def test_a_payload_that_cannot_be_read_is_put_aside_without_a_try(house: House, stream: Stream) -> None:
    x, y = stream
    house.post(x[:30], y[:30])
    broken = house.append(EntryKind.BATCH, b"not a batch", samples=7, by="eve")
    house.post(x[30:], y[30:])
    trainer = house.drain()
    assert trainer.status.failure is None
    (letter,) = letters(house)
    assert (letter.batch, letter.samples, letter.producer) == (broken.id, 7, "eve")
    assert "cannot be read" in letter.error
    assert house.stores.dead_letters.get(letter.id).payload == b"not a batch"
    assert {line.verdict.verdict for line in house.stores.journal.samples(broken.id)} == {Verdict.QUARANTINE}
    assert sum(house.cuts) == 237


def test_a_command_that_always_fails_answers_with_its_error(
    house: House, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object, **named: object) -> None:
        raise ArithmeticError("no such kernel")

    monkeypatch.setattr(Engine, "set_mode", broken)
    entry = house.order(EntryKind.MODE, mode="observe")
    house.post(*stream)
    trainer = house.drain()
    assert trainer.status.failure is None
    assert house.outcome(entry)["error"] == {"code": "command_failed", "detail": "ArithmeticError: no such kernel"}
    assert sum(house.cuts) == 230
