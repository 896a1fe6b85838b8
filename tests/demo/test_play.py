"""Real services, really attacked, in a story short enough for a test; and what is left when it ends."""

from __future__ import annotations

import io
import json
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from rich.console import Console

from weir.core import Engine
from weir.demo import run, services, story
from weir.demo.story import Plan
from weir.errors import Forbidden, ServiceUnavailable
from weir.types import GuardMode

SHORT = Plan(test=800, before=1, preparations=1, judged=1)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return story.trained(SHORT, story.parts(SHORT, 0), 0, at=0.0)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that is started while the test runs."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


def test_a_whole_run_leaves_numbers_a_picture_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    written = io.StringIO()
    code = run(tmp_path / "out", 0, True, Console(file=written), SHORT)
    numbers = json.loads(written.getvalue())
    assert numbers == json.loads((tmp_path / "out" / "demo.json").read_text())
    assert code == (0 if numbers["outcome"]["passed"] else 1)
    phases = [moment["phase"] for moment in numbers["record"]["moments"]]
    assert phases == ["honest stream", "accumulative phase", "trigger batch", *["honest stream again"] * 3]
    trigger = numbers["record"]["moments"][2]["guard"]
    assert trigger["held"] == 100
    assert trigger["score"] > trigger["score_threshold"]
    assert len(trigger["discrepancies"]) == 100
    before, _, after = (moment["accuracy"] for moment in numbers["record"]["moments"][:3])
    assert after["unguarded"] != before["unguarded"]  # it took the hostile batches,
    assert after["guarded"] == before["guarded"]  # the guarded one held them,
    assert after["reference"] == before["reference"]  # and the reference never met them
    assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000
    assert bool(list((tmp_path / "out").glob("demo-*.log"))) is not numbers["outcome"]["passed"]
    assert len(processes) == 3
    assert all(process.poll() == 0 for process in processes)
    assert list((tmp_path / "temporary").glob("weir-demo-*")) == []


def test_every_role_is_real(engine: Engine, tmp_path: Path) -> None:
    batch = story.parts(SHORT, 0).stream[0]
    with services.running(engine, {"one": GuardMode.WEIR}, tmp_path) as (service,):
        with pytest.raises(Forbidden):
            service.hostile.predict(batch.x)
        with pytest.raises(Forbidden):
            service.observer.send(batch.x, batch.y)
        report = service.settled(service.honest.send(batch.x, batch.y, wait=services.WAIT_SECONDS))
        assert report.producer == "honest"
        assert service.model().published_step == report.step == 1
        assert service.gauges()["weir_model_step"] == 1


def test_an_interruption_while_the_services_start_leaves_none_of_them(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[subprocess.Popen[bytes]]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(services, "_connect", interrupted)
    with pytest.raises(KeyboardInterrupt), _two(engine, tmp_path):
        pass
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)


def _two(engine: Engine, base: Path) -> AbstractContextManager[tuple[services.Service, ...]]:
    return services.running(engine, {"a": GuardMode.OFF, "b": GuardMode.OFF}, base)


def test_a_service_that_does_not_start_is_quoted(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_environment", lambda *_: {"WEIR_GUARD_MODE": "asleep"})
    with (
        pytest.raises(ServiceUnavailable, match=r"the one service did not start: .*WEIR_GUARD_MODE.*asleep"),
        services.running(engine, {"one": GuardMode.OFF}, tmp_path),
    ):
        pass
