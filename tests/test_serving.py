"""The service as a process: how it starts, what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch

from weir import codec, config, folder, serving
from weir.api.auth import issue
from weir.core import BurnIn, Engine, EngineConfig, burn_in
from weir.errors import Conflict, InvalidSetting, NotReady
from weir.serving import door
from weir.stores.base import EntryKind, Role
from weir.trainer import Trainer, initialise
from weir.types import Batch, InputSpec, Recipe

ADDRESS = re.compile(r"listening on (http://\S+)")


def samples(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(n) % 2
    return (y[:, None] + 0.1 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))), y


def engine() -> Engine:
    x, y = samples(200, seed=1)
    recipe = Recipe("mlp", InputSpec((3,), 2), {"hidden": 4})
    made = burn_in(recipe, EngineConfig(), x, y, plan=BurnIn(epochs=2))
    made.set_probe(*samples(500, seed=2), created_at=1.0, source="test")
    return made


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    made = config.load(data=tmp_path / "data", port=0)
    with folder.stores(made) as stores:
        initialise(stores, engine(), at=1.0)
    return made


def environment(settings: config.Settings) -> dict[str, str]:
    return os.environ | {"WEIR_DATA": str(settings.data), "WEIR_PORT": "0"}


@contextmanager
def process(settings: config.Settings) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """``weir serve``, its address, and the log lines that came before it."""
    command = [sys.executable, "-m", "weir", "serve"]
    with subprocess.Popen(command, env=environment(settings), stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        lines: list[str] = []
        try:
            for line in running.stderr:
                lines.append(line)
                if found := ADDRESS.search(line):
                    yield running, found[1], lines
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_learns_what_was_taken_checkpoints_it_and_exits_with_zero(
    settings: config.Settings, number: signal.Signals
) -> None:
    with process(settings) as (running, address, _):
        x, y = samples(30, seed=3)
        body = {"x": x.tolist(), "y": y.tolist()}
        assert httpx.post(f"{address}/v1/batches", json=body, trust_env=False).status_code == 202
        running.send_signal(number)
        rest = running.communicate(timeout=60)[1]
        assert running.returncode == 0, rest
        assert "Traceback" not in rest
    with folder.stores(settings) as stores:
        assert stores.log.backlog().batches == 0
        newest = stores.checkpoints.all()[-1]
        assert (newest.step, newest.cursor.position, newest.reason) == (1, 1, "stop")


def test_the_service_starts_and_learns_without_the_compiler_of_torch(settings: config.Settings) -> None:
    x, y = samples(30, seed=3)
    with folder.stores(settings) as stores:
        stores.log.append(EntryKind.BATCH, "local", codec.encode(Batch(x, y)), samples=30)
    code = "import sys; from weir import config, serving\n"
    code += "with serving.running(config.load()): pass\nprint(*sys.modules)"
    environ = environment(settings)
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    with folder.stores(settings) as stores:
        assert stores.checkpoints.all()[-1].step == 1
    loaded = set(done.stdout.split())
    assert {"torch", "fastapi", "uvicorn"} <= loaded
    assert not loaded & {"torch._dynamo", "torch._inductor", "sympy"}


def test_requests_never_wait_for_a_garbage_collection_of_all_that_was_loaded() -> None:
    code = "import gc, uvicorn\nfrom weir.serving import door\n"
    code += "uvicorn.Server.run = lambda server, sockets: print(gc.get_freeze_count() > 10 * len(gc.get_objects()))\n"
    code += "door.answer(None, None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_the_log_tells_what_is_served_and_metrics_follow_the_learner(settings: config.Settings) -> None:
    with process(settings) as (_, address, lines):
        told = "".join(lines)
        assert "model mlp, 26 parameters, on cpu" in told
        assert "checkpoint 00000001-0, step 0" in told
        assert "guard armed, mode weir" in told
        assert "durability: full" in told
        assert "no keys: this machine only" in told
        x, y = samples(30, seed=3)
        body = {"x": x.tolist(), "y": y.tolist()}
        assert httpx.post(f"{address}/v1/batches?wait=20", json=body, trust_env=False, timeout=30).status_code == 200
        scraped = httpx.get(f"{address}/metrics", trust_env=False).text
        assert 'weir_batches_total{outcome="taken"} 1.0' in scraped
        assert "weir_steps_total 1.0" in scraped
        assert "weir_inbox_batches 0.0" in scraped
        assert "weir_guard_armed 1.0" in scraped


def test_json_lines_carry_the_request_they_belong_to(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIR_LOG_FORMAT", "json")
    folder.label_example(settings.data, "digits")
    with process(settings) as (running, address, lines):
        httpx.get(f"{address}/v1/model", headers={"X-Request-ID": "find-me"}, trust_env=False)
        running.send_signal(signal.SIGTERM)
        rest = running.communicate(timeout=60)[1]
    told = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    (asked,) = [line for line in told if line.get("request_id") == "find-me"]
    assert (asked["method"], asked["route"], asked["status"], asked["logger"]) == ("GET", "/v1/model", 200, "weir.api")
    assert [line["level"] for line in told if "EXAMPLE" in line["message"]] == ["warning"]


def test_an_unarmed_guard_is_said_aloud(
    settings: config.Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "answer", lambda app, listener: None)
    observing = config.load(data=settings.data, port=0, guard={"mode": "observe"})
    serving.serve(observing)
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "guard NOT armed, mode observe" in warning


def test_a_host_beyond_this_machine_needs_a_key(settings: config.Settings) -> None:
    exposed = config.load(data=settings.data, host="0.0.0.0", port=0)
    with pytest.raises(InvalidSetting, match="weir keys add"), serving.running(exposed):
        pass
    record, _ = issue("ops", [Role.ADMIN], lambda: 1.0)
    with folder.stores(settings) as stores:
        stores.keys.add(record)
    with serving.running(exposed) as served:
        assert served.trainer.status.alive
    with folder.stores(settings) as stores:
        stores.keys.revoke(record.id, 2.0)
    with pytest.raises(InvalidSetting, match="weir keys add"), serving.running(exposed):
        pass


def test_a_data_folder_has_one_learner(settings: config.Settings) -> None:
    with serving.running(settings), pytest.raises(Conflict, match="in use by another"), serving.running(settings):
        pass
    with serving.running(settings):
        pass


def test_a_data_folder_without_a_model_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="weir burnin"), serving.running(config.load(data=tmp_path / "new")):
        pass


def test_a_port_in_use_is_noticed_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"127.0.0.1:{port} is in use"):
            serving.serve(config.load(data=tmp_path / "new", port=port))
    assert not (tmp_path / "new").exists()


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="WEIR_HOST"):
        serving.serve(config.load(data=tmp_path / "new", host="192.0.2.1", port=0))


def test_a_failed_trainer_ends_the_service_with_an_error(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(trainer: object, *, partial: bool) -> bool:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(door, "answer", lambda app, listener: None)
    monkeypatch.setattr(Trainer, "_advance", fail)
    with pytest.raises(NotReady, match="broken on purpose"):
        serving.serve(settings)
