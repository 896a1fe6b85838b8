"""``weir redteam`` against a whole service: what it says it sent is what the service says it got."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.api.conftest import serving
from tests.redteam.conftest import Field

from weir import codec, config, folder
from weir.api.auth import issue
from weir.cli import main
from weir.client import Client
from weir.errors import LogFull
from weir.redteam.catalogue import CATALOGUE
from weir.serving import running
from weir.stores.base import Entry, EntryKind, Role, Stores
from weir.trainer import initialise
from weir.types import Verdict


@dataclass(frozen=True, slots=True)
class Result:
    """What the command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as exit:
            main(("redteam", *arguments))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Result(int(exit.value.code or 0), printed.out, printed.err)

    return command


@pytest.fixture
def data(field: Field, tmp_path: Path) -> Path:
    """A data folder with the burnt-in model and its probe set."""
    engine = field.engine()
    engine.set_probe(field.test.x[:200], field.test.y[:200], created_at=0.0, source="test")
    with folder.stores(config.load(data=tmp_path / "data")) as stores:
        initialise(stores, engine, at=0.0)
    return tmp_path / "data"


@pytest.fixture
def loot(field: Field, tmp_path: Path) -> str:
    """The attacker's samples, in a file."""
    np.savez(tmp_path / "loot.npz", x=field.stream.x.numpy(), y=field.stream.y.numpy())
    return str(tmp_path / "loot.npz")


@contextmanager
def served(data: Path, monkeypatch: pytest.MonkeyPatch, *, mode: str = "weir") -> Iterator[Stores]:
    """A service that the command finds; its stores."""
    guard = {"mode": mode, "sample_rate": 0.02}
    settings = config.load(data=data, step_size=20, step_linger_seconds=0.01, guard=guard, learner={"lr": 0.02})
    with running(settings) as service, serving(service.app) as address:
        monkeypatch.setenv("WEIR_URL", address)
        yield service.stores


@pytest.fixture
def service(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    with served(data, monkeypatch) as stores:
        yield stores


def received(stores: Stores) -> list[Entry]:
    """Every delivery in the log."""
    return [entry for entry in stores.log.read(0, 100) if entry.kind is EntryKind.BATCH]


def verdicts(stores: Stores) -> Counter[Verdict]:
    """How many samples got each verdict."""
    journalled = (sample for entry in received(stores) for sample in stores.journal.samples(entry.id))
    return Counter(sample.verdict.verdict for sample in journalled)


@pytest.mark.parametrize(
    ("attack", "hostile"),
    [
        ("accumulative", 40 + 80),
        ("adaptive", 40 + 80),
        ("trigger", 60),
        ("ratchet", 60),
        ("label_flip", 12),
        ("label_flip_pairwise", 12),
        ("backdoor", 3),
        ("noisy_labels", 0),
        ("drift", 0),
        ("skewed", 0),
    ],
)
def test_an_attack_reports_what_the_service_counted(
    run: Run, service: Stores, loot: str, attack: str, hostile: int
) -> None:
    done = run(attack, "--data", loot, "--batches", "3", "--size", "20", "--json")
    assert done.code == 0, done.err
    told, found = done.json, verdicts(service)
    assert told["batches"] == len(received(service)) == 3
    assert told["samples"] == sum(entry.samples for entry in received(service))
    assert (told["accepted"], told["corrected"], told["held"], told["pending"]) == (
        found[Verdict.ACCEPT],
        found[Verdict.CORRECT],
        found[Verdict.QUARANTINE],
        0,
    )
    assert told["hostile"] == hostile
    assert told["hostile_held"] <= min(hostile, told["held"])
    assert sum(told["states"].values()) == 3
    assert told["vetoed"] == 0
    assert 0.5 < told["accuracy_before"] <= 1
    assert {entry.producer for entry in received(service)} == {"mallory"}
    assert "hostile samples" in done.err


def test_the_catalogue_is_complete() -> None:
    (mark,) = test_an_attack_reports_what_the_service_counted.pytestmark  # type: ignore[attr-defined]
    assert [name for name, _ in mark.args[1]] == list(CATALOGUE)


def test_what_is_called_hostile_is_what_was_changed(run: Run, service: Stores, field: Field, loot: str) -> None:
    assert run("label_flip", "--data", loot, "--batches", "2", "--size", "20", "--fraction", "0.5").code == 0
    known = {x.numpy().tobytes(): int(y) for x, y in zip(field.stream.x, field.stream.y, strict=True)}
    sent = [codec.load(entry.payload) for entry in received(service)]
    wrong = [[known[x.numpy().tobytes()] != int(y) for x, y in zip(batch.x, batch.y, strict=True)] for batch in sent]
    assert [sum(rows) for rows in wrong] == [10, 10]
    assert all(not all(rows[:10]) for rows in wrong)  # their place does not give them away


def test_a_backdoor_is_judged_by_its_success(run: Run, data: Path, loot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ("--data", loot, "--batches", "12", "--size", "20", "--fraction", "0.5", "--json")
    with served(data, monkeypatch, mode="off"):
        told = run("backdoor", *whole).json
        assert told["success_before"] < 0.3
        assert told["success_after"] > 0.6
        assert told["accepted"] == 240
        assert run("skewed", *whole).json["success_after"] is None


def test_several_producers_send_in_turn(run: Run, service: Stores, loot: str) -> None:
    assert run("skewed", "--data", loot, "--batches", "4", "--size", "10", "--producers", "2").code == 0
    assert [entry.producer for entry in received(service)] == ["mallory-1", "mallory-2"] * 2


def test_what_was_sent_before_an_interruption_is_told(
    run: Run, service: Stores, loot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, calls = Client.send, 0

    def interrupted(self: Client, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return send(self, *arguments, **options)

    monkeypatch.setattr(Client, "send", interrupted)
    stopped = run("label_flip", "--data", loot, "--batches", "9", "--size", "20", "--json")
    assert stopped.code == 130
    assert (stopped.json["batches"], stopped.json["samples"], stopped.json["pending"]) == (2, 40, 0)
    assert len(received(service)) == 2


def test_a_failure_on_the_way_says_how_far_it_came(
    run: Run, service: Stores, loot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Client.send

    def full(self: Client, *arguments: Any, **options: Any) -> Any:
        if len(received(service)) == 2:
            raise LogFull(1.0, "20 samples")
        return send(self, *arguments, **options)

    monkeypatch.setattr(Client, "send", full)
    failed = run("label_flip", "--data", loot, "--batches", "9", "--size", "20")
    assert failed.code == 1
    assert "Failed after 2 of 9 batches" in failed.err


def test_keys_decide_who_sends_and_who_sees(
    run: Run, data: Path, loot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {}
    with folder.stores(config.load(data=data)) as stores:
        for name, role in (("eve", Role.PRODUCER), ("mal", Role.PRODUCER), ("spy", Role.READER)):
            record, key = issue(name, [role], lambda: 0.0)
            stores.keys.add(record)
            files[name] = tmp_path / f"{name}.key"
            files[name].write_text(key)
    senders = ("--key-file", str(files["eve"]), "--key-file", str(files["mal"]))
    short = ("--data", loot, "--batches", "2", "--size", "20", "--json")
    with served(data, monkeypatch) as stores:
        blind = run("accumulative", *short, *senders)
        assert (blind.code, "spy_key_file" in blind.err) == (2, True)
        flipped = run("label_flip", *short, *senders)
        assert (flipped.json["samples"], flipped.json["hostile"]) == (40, 8)
        assert flipped.json["accuracy_after"] is flipped.json["hostile_held"] is flipped.json["vetoed"] is None
        seeing = run("trigger", *short, *senders, "--spy-key-file", str(files["spy"]))
        assert seeing.json["accuracy_after"] is not None
        assert [entry.producer for entry in received(stores)] == ["eve", "mal"] * 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("burglary",), "accumulative, adaptive"),
        (("trigger", "--epsilon", "0"), "epsilon"),
        (("trigger", "--data", "breast_cancer"), "[1, 8, 8]"),
        (("trigger", "--data", "nothing.npz"), "nothing.npz"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_sent(
    run: Run, service: Stores, arguments: tuple[str, ...], named: str
) -> None:
    refused = run(*arguments)
    assert refused.code == 2
    assert named in refused.err
    assert received(service) == []


def test_help_lists_every_attack_in_the_words_of_the_catalogue(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    told = " ".join(run("--help").out.split())
    assert "weir redteam accumulative" in told
    for name, entry in CATALOGUE.items():
        assert f"{name} {entry.summary}" in told
