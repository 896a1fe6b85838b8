"""The benchmarks of a running service measure what they say they do; their seconds are nobody's assertion."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from weir.bench import ingest, load, predict, startup, weir_server
from weir.bench.__main__ import app
from weir.bench.subjects import Subject, running
from weir.errors import InvalidSetting, ServiceUnavailable
from weir.types import ServiceRole

REDIS = pytest.mark.needs("redis-server")


def test_taking_batches_is_measured_row_by_row(tmp_path: Path) -> None:
    plan = ingest.Plan(batch=20, single_connections=4, rounds=1, seconds=0.2, place=str(tmp_path))
    result = ingest.measure(plan)
    servers = {row["what"]: row for row in result["rows"] if "samples_per_second" in row}
    assert len(servers) == 13
    for name, row in servers.items():
        answered = set() if name == "disk" else {200} if "wait" in name else {202}
        assert row["statuses"].keys() == answered, row
        assert 0 < row["lowest"] <= row["samples_per_second"] <= row["highest"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        for other, ratio in row["ratios"].items():  # of one round, so that the medians are its rates
            assert ratio == pytest.approx(row["samples_per_second"] / servers[other]["samples_per_second"])
    assert servers["weir, relaxed"]["ratios"].keys() == {"starlette", "starlette, writing", "fastapi, JSON"}
    shown = ingest.table(result)
    assert all(f"| {row['what']} |" in shown for row in result["rows"])
    assert result["hardware"]["disk"] in shown


def test_a_folder_in_memory_is_no_disk() -> None:
    with pytest.raises(InvalidSetting, match="tmpfs"):
        ingest.file_system(Path("/dev/shm"))


@pytest.fixture
def hasty() -> Iterator[int]:
    """The port of a server that gives an answer, in pieces, and hangs up at the next request."""
    answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer[:5])
                connection.sendall(answer[5:])
                connection.recv(1 << 16)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_a_connection_that_is_closed_is_told(hasty: int) -> None:
    with pytest.raises(ServiceUnavailable, match=str(hasty)):
        load.drive(hasty, [load.request("/", b"{}", "text/plain")], connections=1, seconds=10.0)


@contextmanager
def answering(status: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server of one connection that gives everything this answer, and what it was sent."""
    sent: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while request := connection.recv(1 << 16):
                    sent.append(request)
                    connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], sent
        thread.join()


def test_messages_go_round() -> None:
    messages = [load.request("/", body, "text/plain") for body in (b"one", b"two", b"six")]
    with answering(b"202 Accepted") as (port, sent):
        done = load.drive(port, messages, connections=1, seconds=0.1)
    assert done.statuses.total() == len(sent) > 3
    assert sent[:5] == [*messages, *messages[:2]]


def test_requests_that_are_refused_make_no_rate() -> None:
    messages = [load.request("/", b"one", "text/plain")]
    with answering(b"429 Too Many Requests") as (port, _), pytest.raises(ServiceUnavailable, match="429"):
        load.drive(port, messages, connections=1, seconds=0.05)


def test_a_subject_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(ServiceUnavailable, match=r"No such file|unable to open"),
        running(Subject(name="weir", folder="/nowhere/at/all")),
    ):
        pass


@REDIS
def test_predictions_are_measured_idle_and_busy_by_one_process_and_by_a_replica() -> None:
    plan = predict.Plan(sizes=(1, 3), connections=(1,), rounds=1, seconds=0.2, waiting=300)
    result = predict.measure(plan)
    kinds = [(row["role"], row["samples"], row["connections"]) for row in result["rows"]]
    assert kinds == [("all", 1, 1), ("all", 3, 1), ("api", 1, 1), ("api", 3, 1)]
    for row in result["rows"]:
        assert row["p99_ratio"] == pytest.approx(row["busy"]["p99_ms"] / row["idle"]["p99_ms"])
        assert row["lowest"] == row["p99_ratio"] == row["highest"]
    shown = predict.table(result)
    assert all(f"| {role} | {samples} | {connections} |" in shown for role, samples, connections in kinds)
    assert result["left_out"] == []


@pytest.mark.parametrize("role", ["all", pytest.param("api", marks=REDIS)])
def test_a_learner_that_was_done_too_soon_is_no_busy_one(role: ServiceRole) -> None:
    plan = predict.Plan(roles=(role,), sizes=(1,), connections=(1,), rounds=1, seconds=6.0, waiting=1)
    with pytest.raises(InvalidSetting, match="--waiting"):
        predict.measure(plan)


def test_a_replica_without_a_redis_server_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = predict.measure(predict.Plan(roles=("api",), rounds=1))
    assert result["rows"] == []
    assert "left out: role api: the program redis-server is not on the PATH" in predict.table(result)


def test_a_service_that_does_not_get_ready_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="burnin"), weir_server.running({"data": tmp_path / "empty"}):
        pass


def test_starts_are_measured() -> None:
    result = startup.measure(startup.Plan(rounds=1, warmup=0))
    seconds = {row["what"]: row["seconds"] for row in result["rows"]}
    assert seconds["python, nothing else"] < seconds["weir --help"] < seconds["weir serve, until it is ready"]
    assert all(f"| {name} |" in startup.table(result) for name in seconds)


def test_the_command_prints_a_table_and_writes_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"plan": {"rounds": 1}, "hardware": {"device": "abacus", "cores": 1}, "rows": []}
    monkeypatch.setattr(startup, "measure", lambda plan, progress: result)
    done = CliRunner().invoke(app, ["startup", "--json", str(tmp_path / "figures.json")])
    assert done.exit_code == 0, done.output
    assert startup.table(result) in done.output
    assert json.loads((tmp_path / "figures.json").read_text()) == result


def test_the_other_measurements_need_no_web_stack() -> None:
    hidden = ("fastapi", "starlette", "uvicorn", "pydantic", "httpx", "redis", "prometheus_client", "safetensors")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden})); from weir.bench.__main__ import app; app(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("overhead", "ingest", "predict", "startup"))
