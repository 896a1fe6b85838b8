"""A Redis server that dies, hangs or cannot be reached: the service outlives it, and loses nothing it acknowledged."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults import harness, netns
from tests.faults.backends import RedisBackend
from tests.faults.service import Service
from tests.redis_server import DURABLE, running

ENVIRONMENT = {**harness.ENVIRONMENT, **harness.WITHOUT_VACCINE}
AWAY = 7.0  # seconds: longer than a call waits, shorter than a lease
PORT = 6390

pytestmark = pytest.mark.needs("redis-server")


def _outlive(
    backend: RedisBackend, place: Path, template: Path, *, leave: Callable[[], object], come_back: Callable[[], object]
) -> None:
    """Serve, lose the server for a while, and see to it that deliveries are taken again by the same process."""
    with harness.Trial(backend, place / "log", seed=8, environment=ENVIRONMENT) as trial:
        trial.serve()
        trial.wait_for(20)
        leave()
        time.sleep(AWAY)
        come_back()
        trial.wait_for(20)
        assert trial.service.exit is None
        assert {status for status, _ in trial.traffic.refused} <= {0, 503}, trial.traffic.refused
        trial.finish()
    trial.outcome().check()


def test_killed_and_started_again(tmp_path: Path, template: Path) -> None:
    with running() as server:
        backend = RedisBackend(tmp_path / "data", template, server, url=server.url)
        _outlive(backend, tmp_path, template, leave=server.kill, come_back=server.start)


def test_paused(tmp_path: Path, template: Path) -> None:
    with running() as server:
        backend = RedisBackend(tmp_path / "data", template, server, url=server.url)
        _outlive(
            backend,
            tmp_path,
            template,
            leave=lambda: server.signal(signal.SIGSTOP),
            come_back=lambda: server.signal(signal.SIGCONT),
        )


@pytest.mark.needs("ip")
def test_cut_off(tmp_path: Path, template: Path) -> None:
    try:
        with netns.cable() as cable:
            settings = {**DURABLE, "port": str(PORT), "bind": netns.THERE, "protected-mode": "no"}
            with running(settings, program=(*cable.within, "redis-server")) as server:
                url = f"redis://{netns.THERE}:{PORT}"
                backend = RedisBackend(tmp_path / "data", template, server, url=url)
                _outlive(backend, tmp_path, template, leave=cable.pull, come_back=cable.plug)
    except PermissionError as error:
        pytest.skip(f"needs the program ip: {error}")


def test_a_learner_that_was_thought_dead_writes_nothing_when_it_wakes(tmp_path: Path, template: Path) -> None:
    with running() as server:
        backend = RedisBackend(tmp_path / "data", template, server, url=server.url)
        heir = RedisBackend(tmp_path / "heir", template, server, url=server.url)
        old = Service({**ENVIRONMENT, **backend.environment}, tmp_path / "old")
        with old, harness.Trial(heir, tmp_path / "log", seed=9, environment=ENVIRONMENT, commands=False) as trial:
            new, trial.service = trial.service, old
            old.start()
            old.wait_until_it_listens()
            trial.wait_for(20)
            old.signal(signal.SIGSTOP)
            backend.outlive_lease()
            trial.service = new
            trial.serve()
            trial.wait_for(20)
            old.signal(signal.SIGCONT)
            old.wait(lambda: "another learner owns the log" in old.told, "find itself fenced")
            old.signal(signal.SIGTERM)
            assert old.wait_until_it_ends() == 1
            trial.finish()
        trial.outcome().check()
