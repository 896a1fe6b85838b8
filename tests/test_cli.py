"""Every command by what it leaves behind, what it prints, and the code it exits with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.api.conftest import serving

from weir import codec, config, datasets, folder
from weir.api.auth import Keyring
from weir.cli import main
from weir.client import Client
from weir.core.probe import ProbeSet
from weir.errors import ServiceUnavailable, Unauthenticated
from weir.serving import running
from weir.stores.base import DeadLetter, EntryKind, Held, HeldState, Role, Stores
from weir.types import Batch, Reason, ReplayOrder, ReplayReport, ReplayState, SampleVerdict, Verdict

ROWS = 230


@dataclass(frozen=True, slots=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``weir`` with these arguments in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Result(int(exit.value.code or 0), printed.out, printed.err)

    return command


def write(path: Path, n: int, seed: int) -> Path:
    """Three well separated classes in four features, in [0, 1]."""
    y = torch.arange(n) % 3
    noise = 0.05 * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    x = (torch.eye(3, 4)[y] * 0.6 + 0.2 + noise).clamp(0, 1)
    np.savez(path, x=x.numpy(), y=y.numpy())
    return path


@pytest.fixture
def data(run: Run, tmp_path: Path) -> Path:
    """A data folder with a model."""
    train = write(tmp_path / "train.npz", 700, seed=1)
    made = run("burnin", str(train), "--data", "data", "--probe-size", "400", "--epochs", "4", "--option", "hidden=8")
    assert made.code == 0, made.err
    return tmp_path / "data"


@pytest.fixture
def service(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    """A running service that remote commands find; its stores."""
    settings = config.load(data=data, guard={"mode": "observe"}, step_linger_seconds=0.01)
    with running(settings) as served, serving(served.app) as address:
        monkeypatch.setenv("WEIR_URL", address)
        yield served.stores


def opened(data: Path) -> Any:
    return folder.stores(config.load(data=data))


@pytest.mark.parametrize(
    "command",
    [
        ("demo",),
        ("burnin",),
        ("serve",),
        ("stream",),
        ("probe", "split"),
        ("probe", "import"),
        ("checkpoints", "create"),
        ("rollback",),
        ("replay",),
        ("replay", "publish"),
        ("erase",),
        ("dead-letters", "list"),
        ("dead-letters", "retry"),
        ("dead-letters", "drop"),
        ("quarantine", "list"),
        ("quarantine", "release"),
        ("quarantine", "discard"),
        ("quarantine", "export"),
        ("keys", "add"),
    ],
    ids=" ".join,
)
def test_help_teaches_with_an_example(run: Run, command: tuple[str, ...]) -> None:
    told = run(*command, "--help")
    assert told.code == 0
    assert "Example" in told.out
    assert f"weir {' '.join(command)}" in told.out


def test_a_command_that_does_not_exist_is_bad_usage(run: Run) -> None:
    assert run("burnout").code == 2
    assert run("--version").out.startswith("weir ")


def test_all_bad_settings_are_shown_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_PORT", "x")
    monkeypatch.setenv("WEIR_STEP_SIZE", "0")
    refused = run("serve")
    assert refused.code == 2
    assert "WEIR_PORT" in refused.err
    assert "WEIR_STEP_SIZE" in refused.err


class TestKeys:
    def test_the_printed_key_opens_and_its_secret_is_stored_nowhere(self, run: Run, tmp_path: Path) -> None:
        made = run("keys", "add", "ana", "--role", "reviewer", "--role", "reader")
        key = made.out.strip()
        with opened(tmp_path / "weir-data") as stores:
            identity = Keyring(stores.keys, keyed=True).holder(key)
            assert (identity.name, identity.roles) == ("ana", frozenset({Role.REVIEWER, Role.READER}))
            (record,) = stores.audit.recent(1)
            assert (record.action, record.detail["name"]) == ("key.add", "ana")
        secret = key.split("_", 2)[2].encode()
        assert not any(secret in path.read_bytes() for path in (tmp_path / "weir-data").rglob("*") if path.is_file())
        listed = run("keys", "list", "--json")
        assert [(item["name"], item["roles"]) for item in listed.json] == [("ana", ["reader", "reviewer"])]
        assert secret.decode() not in listed.out

    def test_rotation_replaces_a_key_and_revocation_ends_it(self, run: Run, tmp_path: Path) -> None:
        first = run("keys", "add", "ops", "--role", "admin", "--json").json
        second = run("keys", "rotate", first["id"], "--json").json
        with opened(tmp_path / "weir-data") as stores:
            keyring = Keyring(stores.keys, keyed=True)
            assert keyring.holder(second["key"]).roles == {Role.ADMIN}
            with pytest.raises(Unauthenticated):
                keyring.holder(first["key"])
            assert run("keys", "revoke", second["id"]).code == 0
            with pytest.raises(Unauthenticated):
                keyring.holder(second["key"])

    @pytest.mark.parametrize(
        ("arguments", "code", "told"),
        [
            (("add", "ana", "--role", "queen"), 2, "one of producer, reviewer, reader, admin"),
            (("add", "a b"), 2, "letters, digits"),
            (("revoke", "nobody"), 1, "no key has the id 'nobody'"),
            (("rotate", "nobody"), 1, "'nobody'"),
        ],
    )
    def test_what_does_not_fit_is_refused_in_one_line(
        self, run: Run, arguments: tuple[str, ...], code: int, told: str
    ) -> None:
        refused = run("keys", *arguments)
        assert refused.code == code
        assert told in refused.err
        assert refused.err.count("\n") == 1


class TestBurnIn:
    def test_it_leaves_an_armed_model_that_knows_its_data(self, run: Run, tmp_path: Path) -> None:
        train = write(tmp_path / "train.npz", 900, seed=1)
        made = run(
            *("burnin", str(train), "--samples", "700", "--rest", "rest.npz", "--probe-size", "400"),
            *("--option", "hidden=8", "--json"),
        )
        assert made.code == 0, made.err
        assert (made.json["burn_in_samples"], made.json["probe_samples"], made.json["armed"]) == (300, 400, True)
        assert made.json["probe_accuracy"] > 0.9
        with running(config.load(data=tmp_path / "weir-data")) as served:
            assert served.trainer.publication.recipe.options == {"hidden": 8}
            assert served.trainer.status.armed
            assert served.trainer.status.probe is not None
            assert served.trainer.status.probe.size == 400

    def test_samples_rest_and_probe_set_are_disjoint(self, run: Run, tmp_path: Path) -> None:
        all_rows = datasets.load(write(tmp_path / "train.npz", 900, seed=1)).x
        assert run("burnin", "train.npz", "--samples", "700", "--rest", "rest.npz", "--epochs", "1").code == 0
        with opened(tmp_path / "weir-data") as stores:
            found = stores.checkpoints.newest()
            probe = ProbeSet.from_state(found[1].part("engine").part("guard").part("probe"))
        unseen = datasets.load("rest.npz").x
        assert (len(unseen), len(probe)) == (200, 500)
        assert distinct(unseen, probe.x) == 700
        assert distinct(all_rows, unseen, probe.x) == 900

    def test_a_model_of_ones_own_learns_from_raw_measurements(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "own_model.py").write_text(
            "from torch import nn\n\n\ndef build(inputs, width):\n"
            "    return nn.Sequential(nn.Linear(inputs.shape[0], width), nn.GELU(), nn.Linear(width, inputs.classes))\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("WEIR_GUARD_SAMPLE_RATE", "0.03")
        made = run(
            *("burnin", "breast_cancer", "--samples", "350", "--probe-size", "150", "--rest", "rest.npz", "--json"),
            *("--model", "own_model:build", "--option", "width=16", "--categorical", "3", "--categorical", "7"),
        )
        assert made.code == 0, made.err
        assert folder.is_example(tmp_path / "weir-data")
        rest = datasets.load("rest.npz")
        with running(config.load(data=tmp_path / "weir-data")) as served:
            published = served.trainer.publication
            right = published.predict(rest.x).argmax(1) == rest.y
        inputs = published.recipe.inputs
        assert (inputs.low, inputs.high, inputs.categorical) == (None, None, (3, 7))
        assert inputs.center is not None
        assert inputs.scale is not None
        assert max(inputs.center) > 500 > 1 > min(inputs.center)  # areas and smoothness, as they were measured
        assert float(right.float().mean()) > 0.85  # the unstandardised model calls them all benign: 0.63

    def test_a_folder_with_a_model_is_left_alone(self, run: Run, data: Path) -> None:
        before = [path.name for path in (data / "checkpoints").iterdir()]
        refused = run("burnin", "train.npz", "--data", "data")
        assert refused.code == 1
        assert "holds a model already" in refused.err
        assert not folder.is_example(data)
        assert [path.name for path in (data / "checkpoints").iterdir()] == before

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("no-such-file.npz",), "no-such-file.npz"),
            (("nothing",), "digits"),
            (("train.npz", "--option", "width"), "name=value"),
            (("train.npz", "--probe-size", "700"), "less than the 700"),
            (("train.npz", "--probe-size", "30"), "30 samples"),
            (("train.npz", "--samples", "701"), "at most the 700"),
            (("train.npz", "--rest", "rest.npz"), "--samples beside it"),
            (("train.npz", "--epochs", "0"), "epochs"),
            (("train.npz", "--categorical", "4"), "0 to 3"),
        ],
    )
    def test_what_does_not_fit_is_refused_before_any_training(
        self, run: Run, tmp_path: Path, arguments: tuple[str, ...], told: str
    ) -> None:
        write(tmp_path / "train.npz", 700, seed=1)
        refused = run("burnin", *arguments)
        assert refused.code == 2
        assert told in refused.err

    def test_a_model_that_cannot_be_built_is_named(self, run: Run, tmp_path: Path) -> None:
        write(tmp_path / "train.npz", 700, seed=1)
        refused = run("burnin", "train.npz", "--model", "no.such:model")
        assert refused.code == 1
        assert "no.such" in refused.err


class TestProbe:
    def test_split_takes_every_class_in_its_share_and_loses_nothing(self, run: Run, tmp_path: Path) -> None:
        write(tmp_path / "all.npz", 300, seed=1)
        done = run("probe", "split", "all.npz", "--out", "probe.npz", "--rest", "rest.npz", "--size", "60", "--json")
        assert done.json["per_class"] == [20, 20, 20]
        probe, rest = datasets.load("probe.npz"), datasets.load("rest.npz")
        assert (len(probe), len(rest)) == (60, 240)
        assert distinct(probe.x, rest.x) == 300

    def test_import_replaces_the_probe_set_of_a_running_service(
        self, run: Run, service: Stores, tmp_path: Path
    ) -> None:
        before = run("probe", "status", "--json").json
        imported = run("probe", "import", str(write(tmp_path / "trusted.npz", 450, seed=8)), "--json")
        assert imported.code == 0, imported.err
        after = run("probe", "status", "--json").json
        assert (before["size"], after["size"]) == (400, 450)
        assert before["version"] != after["version"] == imported.json["version"]
        small = run("probe", "import", str(write(tmp_path / "small.npz", 9, seed=8)))
        assert small.code == 2
        assert run("probe", "status", "--json").json["version"] == after["version"]


class TestStream:
    def test_all_samples_arrive_in_order_and_are_summed_up(self, run: Run, service: Stores, tmp_path: Path) -> None:
        write(tmp_path / "new.npz", ROWS, seed=5)
        done = run("stream", "new.npz", "--batch", "50", "--skip", "20", "--limit", "180", "--json")
        assert done.code == 0, done.err
        assert done.json["samples"] == done.json["accept"] == 180
        assert (done.json["batches"], done.json["pending"]) == (4, 0)
        assert arrived(service).equal(datasets.load("new.npz").x[20:200])
        assert not list(tmp_path.glob("*.weir-stream"))

    @pytest.mark.parametrize("acknowledged", [True, False])
    def test_an_interrupted_pass_goes_on_and_every_sample_is_taken_once(
        self, run: Run, service: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acknowledged: bool
    ) -> None:
        """Not ``acknowledged``: the service took the batch, and its answer was lost."""
        write(tmp_path / "new.npz", ROWS, seed=5)
        send, calls = Client.send, 0

        def interrupted(self: Client, *arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3 and acknowledged:
                raise KeyboardInterrupt
            receipt = send(self, *arguments, **options)
            if calls == 3:
                raise KeyboardInterrupt
            return receipt

        with monkeypatch.context() as patched:
            patched.setattr(Client, "send", interrupted)
            stopped = run("stream", "new.npz", "--batch", "50")
        assert stopped.code == 130
        assert "--resume" in stopped.err
        refused = run("stream", "new.npz")
        assert (refused.code, "--restart" in refused.err) == (1, True)
        assert run("stream", "new.npz", "--resume").code == 0
        assert arrived(service).equal(datasets.load("new.npz").x)

    def test_a_second_pass_is_a_delivery_of_its_own(self, run: Run, service: Stores, tmp_path: Path) -> None:
        write(tmp_path / "new.npz", 40, seed=5)
        assert run("stream", "new.npz").code == run("stream", "new.npz").code == 0
        assert len(arrived(service)) == 80

    def test_only_the_data_that_a_pass_began_with_can_resume_it(
        self, run: Run, service: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(self: Client, *arguments: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

        write(tmp_path / "new.npz", 40, seed=5)
        assert run("stream", "new.npz", "--resume").code == 2
        with monkeypatch.context() as patched:
            patched.setattr(Client, "send", interrupt)
            assert run("stream", "new.npz").code == 130
        write(tmp_path / "new.npz", 40, seed=6)
        assert "another data set" in run("stream", "new.npz", "--resume").err
        assert run("stream", "new.npz", "--restart").code == 0
        assert len(arrived(service)) == 40

    def test_the_rate_bounds_how_fast_samples_go(
        self, run: Run, service: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moment, pauses = 0.0, []

        def sleep(seconds: float) -> None:
            nonlocal moment
            moment += seconds
            pauses.append(seconds)

        write(tmp_path / "new.npz", 40, seed=5)
        monkeypatch.setattr("weir.cli.stream.monotonic", lambda: moment)
        monkeypatch.setattr("weir.cli.stream.sleep", sleep)
        assert run("stream", "new.npz", "--batch", "10", "--rate", "5", "--settle", "0").code == 0
        assert pauses == [0.0, 2.0, 2.0, 2.0]

    def test_samples_that_do_not_fit_are_named(self, run: Run, service: Stores, tmp_path: Path) -> None:
        np.savez(tmp_path / "wrong.npz", x=np.zeros((5, 7), dtype=np.float32), y=np.zeros(5, dtype=np.int64))
        refused = run("stream", "wrong.npz")
        assert refused.code == 2
        assert "7" in refused.err
        assert service.log.tail() == 0


class TestCheckpoints:
    def test_a_rollback_brings_the_saved_weights_back(self, run: Run, service: Stores, tmp_path: Path) -> None:
        def weights() -> dict[str, torch.Tensor]:
            with Client(os.environ["WEIR_URL"]) as client:
                return client.weights()[0]

        write(tmp_path / "new.npz", 100, seed=5)
        first, before = run("checkpoints", "list", "--json").json[0]["id"], weights()
        saved = run("checkpoints", "create", "--reason", "before", "--json")
        assert saved.code == 0, saved.err
        assert run("stream", "new.npz").code == 0
        assert not all(before[name].equal(now) for name, now in weights().items())
        done = run("rollback", saved.json["id"], "--json")
        assert done.json["restored"] == saved.json["id"]
        assert all(before[name].equal(now) for name, now in weights().items())
        listed = run("checkpoints", "list", "--json").json
        assert [item["id"] for item in listed][:2] == [first, saved.json["id"]]
        assert [item["reason"] for item in listed][1] == "before"
        assert service.checkpoints.all()[-1].id == done.json["checkpoint"]

    def test_an_unknown_checkpoint_is_named(self, run: Run, service: Stores) -> None:
        refused = run("rollback", "nope")
        assert (refused.code, "'nope'" in refused.err) == (1, True)


class TestQuarantine:
    @pytest.fixture(autouse=True)
    def held(self, service: Stores) -> None:
        """Three held samples of two producers."""
        verdict = SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE, 9.0, 5.0, 1.5, 0.001)
        payload = codec.encode(Batch(torch.full((1, 4), 0.5), torch.tensor([1])))
        service.quarantine.put(
            Held("b", index, producer, 1, 1, verdict, payload, held_at=1.0 + index)
            for index, producer in enumerate(["ana", "bob", "bob"])
        )

    def test_list_filters_and_shows_the_evidence(self, run: Run) -> None:
        assert [item["id"] for item in run("quarantine", "list", "--json").json] == ["b:0", "b:1", "b:2"]
        mine = run("quarantine", "list", "--producer", "bob", "--limit", "1", "--json")
        assert [(item["id"], item["score"], item["reason"]) for item in mine.json] == [("b:1", 9.0, "sample")]
        assert "raise --limit" in mine.err
        table = run("quarantine", "list").out.splitlines()
        assert table[0].split()[:3] == ["id", "producer", "label"]
        assert table[1].split()[:3] == ["b:0", "ana", "1"]
        assert run("quarantine", "list", "--state", "hidden").code == 2

    def test_show_gives_the_sample_as_it_was_sent(self, run: Run) -> None:
        assert run("quarantine", "show", "b:0", "--json").json["x"] == [0.5] * 4
        assert "torch.float32 [4]" in run("quarantine", "show", "b:0").out

    def test_release_learns_a_sample_and_discard_never_does(self, run: Run, service: Stores) -> None:
        released = run("quarantine", "release", "b:0", "--label", "2", "--json")
        assert released.json[0]["state"] == "released"
        assert (service.quarantine.get("b:0").relabel, released.json[0]["step"]) == (2, 1)
        discarded = run("quarantine", "discard", "b:1", "b:2", "--note", "wrong", "--json")
        assert [item["state"] for item in discarded.json] == ["discarded", "discarded"]
        assert service.quarantine.get("b:2").note == "wrong"
        assert run("quarantine", "list", "--json").json == []

    def test_all_that_fit_are_answered_only_when_it_is_confirmed(self, run: Run, service: Stores) -> None:
        bobs = ("quarantine", "discard", "--all-matching", "--producer", "bob", "--limit", "1")
        seen = run(*bobs)
        assert seen.out.splitlines()[-1] == "b:1"
        for told in ("1 samples would be discarded", "raise --limit", "add --yes"):
            assert told in seen.err
        assert service.quarantine.get("b:1").state is HeldState.HELD
        assert run(*bobs, "--json").json["dry_run"]
        done = run(*bobs, "--yes", "--note", "junk", "--json").json
        assert (done["ids"], done["state"], done["more"]) == (["b:1"], "discarded", True)
        assert service.quarantine.get("b:1").note == "junk"
        released = run("quarantine", "release", "--all-matching", "--reason", "sample", "--yes", "--label", "2")
        assert "2 samples were released" in released.err
        assert "ana 1, bob 1" in released.out
        assert {run("quarantine", "show", id, "--json").json["relabel"] for id in ("b:0", "b:2")} == {2}
        assert "0 samples" in run("quarantine", "discard", "--all-matching").err

    @pytest.mark.parametrize(
        "arguments",
        [(), ("b:0", "--all-matching"), ("--producer", "bob"), ("b:0", "--yes"), ("b:0", "--reason", "veto")],
    )
    def test_ids_and_filters_are_never_mixed_up(self, run: Run, service: Stores, arguments: tuple[str, ...]) -> None:
        refused = run("quarantine", "discard", *arguments)
        assert (refused.code, "--all-matching" in refused.err) == (2, True)
        assert service.quarantine.size().samples == 3

    def test_an_export_is_a_whole_file_or_none(
        self, run: Run, service: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "2 samples" in run("quarantine", "export", "held.ndjson", "--producer", "bob").err
        lines = [json.loads(line) for line in (tmp_path / "held.ndjson").read_text().splitlines()]
        assert [(line["id"], line["x"]) for line in lines] == [("b:1", [0.5] * 4), ("b:2", [0.5] * 4)]

        def breaks(self: Client, **_: object) -> Iterator[str]:
            yield "{}"
            raise ServiceUnavailable("the connection broke")

        monkeypatch.setattr(Client, "export", breaks)
        assert run("quarantine", "export", "other.ndjson").code == 1
        assert {path.name for path in tmp_path.glob("*ndjson*")} == {"held.ndjson"}

    def test_one_bad_id_does_not_stop_the_others(self, run: Run, service: Stores) -> None:
        done = run("quarantine", "discard", "b:9", "b:1", "--json")
        assert done.code == 1
        assert "b:9" in done.err
        assert service.quarantine.get("b:1").state == HeldState.DISCARDED


class TestReplay:
    @pytest.fixture
    def taught(self, run: Run, service: Stores, tmp_path: Path) -> str:
        """What two producers sent, after this checkpoint."""
        first: str = run("checkpoints", "list", "--json").json[0]["id"]
        for name, seed in (("ana", 5), ("bob", 6)):
            assert run("stream", str(write(tmp_path / f"{name}.npz", 100, seed)), "--producer", name).code == 0
        return first

    def test_a_replay_compares_and_is_published_when_told(self, run: Run, service: Stores, taught: str) -> None:
        before = len(service.checkpoints.all())
        done = run("replay", "--from", taught, "--without-producer", "bob")
        assert done.code == 0, done.err
        told = dict(line.split(None, 1) for line in done.out.splitlines())
        assert (told["state"], told["progress"], told["learned"]) == ("done", "100%", "100")
        assert f"weir replay publish {told['id']}" in done.err
        assert len(service.checkpoints.all()) == before
        published = run("replay", "publish", told["id"], "--json").json
        assert published["left_out"] == 100
        assert service.checkpoints.all()[-1].id == published["checkpoint"]
        (listed,) = run("replay", "list", "--json").json
        assert (listed["id"], listed["left_out"], listed["accuracy"]) == (told["id"], 100, published["accuracy"])

    def test_a_replay_may_publish_at_once(self, run: Run, service: Stores, taught: str) -> None:
        always = run("replay", "--from", taught, "--verdicts", "anew", "--publish", "always", "--json").json
        assert always["published"]["checkpoint"] == service.checkpoints.all()[-1].id
        same = run("replay", "--from", taught, "--publish", "if-better", "--json")
        better = same.json["accuracy"] > same.json["accuracy_now"]
        assert (same.json["published"] is not None, "not better" in same.err) == (better, not better)

    def test_ctrl_c_cancels(self, run: Run, service: Stores, taught: str, monkeypatch: pytest.MonkeyPatch) -> None:
        cancelled: list[str] = []

        def interrupt(self: Client, id: str) -> ReplayReport:
            raise KeyboardInterrupt

        def cancel(self: Client, id: str) -> None:
            cancelled.append(id)

        monkeypatch.setattr(Client, "replay", interrupt)
        monkeypatch.setattr(Client, "cancel_replay", cancel)
        stopped = run("replay", "--from", taught)
        assert (stopped.code, len(cancelled)) == (130, 1)
        assert f"{cancelled[0]} is cancelled" in stopped.err

    def test_a_detached_replay_is_followed_in_the_list(self, run: Run, service: Stores, taught: str) -> None:
        begun = run("replay", "--from", taught, "--detach", "--json")
        id = begun.json["id"]
        assert f"weir replay cancel {id}" in begun.err
        deadline = time.monotonic() + 20
        while run("replay", "list", "--json").json[0]["state"] == "running" and time.monotonic() < deadline:
            time.sleep(0.05)
        refused = run("replay", "cancel", id)
        assert (refused.code, "nothing to cancel" in refused.err) == (1, True)

    def test_a_failed_replay_is_an_error(self, run: Run, service: Stores, taught: str, monkeypatch: Any) -> None:
        def failed(self: Client, id: str) -> ReplayReport:
            order = ReplayOrder(taught)
            return ReplayReport(id, order, ReplayState.FAILED, "ops", 1.0, start=0, end=1, position=0, error="no disk")

        monkeypatch.setattr(Client, "replay", failed)
        ended = run("replay", "--from", taught, "--publish", "always")
        assert (ended.code, "no disk" in ended.err) == (1, True)

    def test_what_does_not_fit_is_named(self, run: Run, service: Stores) -> None:
        assert "--from" in run("replay", "--without-producer", "bob").err
        assert run("replay", "--from", "c", "--detach", "--publish", "always").code == 2
        refused = run("replay", "--from", "nope")
        assert (refused.code, "'nope'" in refused.err) == (1, True)


class TestErase:
    def test_it_counts_and_erases_only_when_confirmed(self, run: Run, service: Stores, tmp_path: Path) -> None:
        assert run("stream", str(write(tmp_path / "new.npz", 40, seed=5)), "--producer", "ana").code == 0
        counted = run("erase", "--producer", "ana", "--json")
        assert (counted.json["samples"], counted.json["dry_run"], "--yes" in counted.err) == (40, True, True)
        assert len(arrived(service)) == 40
        done = run("erase", "--producer", "ana", "--yes", "--json")
        assert (done.json["samples"], done.json["dry_run"]) == (40, False)
        assert run("checkpoints", "create").code == 0  # it lies behind the erasure
        assert len(arrived(service)) == 0

    @pytest.mark.parametrize("arguments", [(), ("--producer", "a", "--batch", "b")])
    def test_exactly_one_thing_is_erased(self, run: Run, arguments: tuple[str, ...]) -> None:
        refused = run("erase", *arguments, "--yes")
        assert (refused.code, "exactly one of --producer, --batch, --sample" in refused.err) == (2, True)


class TestDeadLetters:
    def test_letters_are_listed_shown_retried_and_dropped(self, run: Run, service: Stores) -> None:
        assert "no dead letters" in run("dead-letters", "list").err
        payload = codec.encode(Batch(torch.full((2, 4), 0.5), torch.tensor([1, 2])))
        for batch in ("a", "b"):
            service.dead_letters.put(DeadLetter(batch, 0, 2, "ana", 1, "ArithmeticError: no", payload, at=1.0))
        listed = run("dead-letters", "list", "--limit", "1", "--json")
        assert ([item["id"] for item in listed.json], "raise --limit" in listed.err) == (["a:0"], True)
        assert run("dead-letters", "show", "b:0", "--json").json["labels"] == [1, 2]
        retried = run("dead-letters", "retry", "a:0", "none:0", "--json")
        assert (retried.code, "none:0" in retried.err) == (1, True)
        assert service.dead_letters.get("a:0").retried_as == retried.json[0]["batch"]
        dropped = run("dead-letters", "drop", "none:0", "b:0")
        assert (dropped.code, "none:0" in dropped.err) == (1, True)
        assert [item["id"] for item in run("dead-letters", "list", "--json").json] == ["a:0"]


class TestAccess:
    def test_the_key_comes_from_the_environment_or_a_file(
        self, run: Run, service: Stores, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = run("keys", "add", "ops", "--role", "admin", "--data", str(data)).out.strip()
        refused = run("checkpoints", "list")
        assert (refused.code, "key" in refused.err) == (1, True)
        (tmp_path / "ops.key").write_text(f"{key}\n")
        assert run("checkpoints", "list", "--key-file", "ops.key").code == 0
        assert run("checkpoints", "list", "--key-file", "no.key").code == 2
        monkeypatch.setenv("WEIR_KEY", key)
        assert run("checkpoints", "list").code == 0

    def test_a_service_that_does_not_answer_is_named_in_one_line(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("weir.cli.remote.PATIENCE_SECONDS", 0.0)
        refused = run("checkpoints", "list", "--url", "http://127.0.0.1:9")
        assert refused.code == 1
        assert "127.0.0.1:9" in refused.err
        assert refused.err.count("\n") == 1


def distinct(*parts: torch.Tensor) -> int:
    """How many different samples there are in all parts together."""
    return len({tuple(row) for part in parts for row in part.tolist()})


def arrived(stores: Stores) -> torch.Tensor:
    """All samples in the log, in order."""
    entries = stores.log.read(0, 1000)
    return torch.cat([codec.load(entry.payload).x for entry in entries if entry.kind is EntryKind.BATCH])
