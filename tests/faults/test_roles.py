"""A learner and two replicas over one Redis: whichever dies, nothing taken is lost, and nothing is learned twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import pytest
from tests.faults import harness
from tests.faults.backends import BACKENDS, Backend
from tests.faults.digest import Run
from tests.faults.model import samples
from tests.faults.service import Service
from tests.faults.traffic import Traffic

ENVIRONMENT = {**harness.ENVIRONMENT, **harness.WITHOUT_VACCINE, "WEIR_PUBLISH_SECONDS": "0.1"}
NEVER = ("cut.before", 10**9)  # a point that no life passes so often: a quick start without a death
SEED = 5

pytestmark = pytest.mark.needs("redis-server")


@dataclass(frozen=True, slots=True)
class Said:
    """What a prediction was answered with."""

    status: int
    step: int
    staleness: float


class Asker:
    """Asks one replica for predictions, again and again, from its start to its end."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.said: list[Said] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        body = {"x": samples(2, seed=3)[0].tolist()}
        with httpx.Client(trust_env=False, timeout=15.0) as client:
            while not self._ended.wait(0.02):
                answer = client.post(f"{self._address}/v1/predict", json=body)
                step, stale = answer.headers.get("X-Weir-Model-Step"), answer.headers.get("X-Weir-Staleness-Seconds")
                self.said.append(Said(answer.status_code, int(step or -1), float(stale or -1)))


class Split:
    """A learner and two replicas as processes, under traffic that goes to whichever replica lives.

    Use it in a ``with``: everything is started, and nothing of it is left running.
    """

    def __init__(self, backend: Backend, place: Path) -> None:
        self.traffic = Traffic(self._address, seed=SEED)
        self._backend = backend
        self._log = place / "log"
        own = {**ENVIRONMENT, **backend.environment}
        alone = {name: value for name, value in own.items() if name != "WEIR_DATA"}
        self.learner = self._service({**own, "WEIR_ROLE": "learner"}, place / "learner")
        self.replicas = [self._service({**alone, "WEIR_ROLE": "api"}, place / f"replica-{name}") for name in "ab"]
        self._turn = random.Random(SEED)

    def start(self, *services: Service) -> None:
        """Begin a life of these, and wait until they are ready."""
        for service in services:
            service.start(*NEVER)
        for service in services:
            assert service.wait_until_it_listens(), service.tail
        for service in services:
            self.until(lambda service=service: _ready(service), "be ready")  # type: ignore[misc]

    def kill_learner(self) -> None:
        """End its life, and be as if the time for which it still owns the log had gone by."""
        self.learner.kill()
        self._backend.outlive_lease()

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait until something happened."""
        self.learner.wait(happened, what)

    def taken(self, more: int) -> None:
        """Wait until so many more deliveries are acknowledged."""
        wanted = len(self.traffic.acknowledged) + more
        self.until(lambda: len(self.traffic.acknowledged) >= wanted, "take deliveries")

    def finish(self) -> None:
        """Let the traffic end, the log be learned to its end, and every process stop in order."""
        self.traffic.finish()
        while self.traffic.order("POST", "/v1/checkpoints", json={"reason": "the end"}).status_code == 202:
            pass
        for service in (self.learner, *self.replicas):
            service.stop()

    def check(self) -> None:
        """Raise AssertionError unless it ended as if nothing had happened, in one process."""
        with self._backend.stores() as stores:
            ended = Run.read(stores)
        straight = harness.run_straight(self._backend, self._log, ENVIRONMENT)
        lost, doubled = ended.lost(self.traffic.acknowledged), ended.doubled()
        assert [lost, doubled, ended.undecided(), ended.differences(straight)] == [[], [], [], []], self._tail

    def _service(self, environment: Mapping[str, str], log: Path) -> Service:
        return Service(environment, log, check=self.traffic.check)

    def _address(self) -> str | None:
        found = [replica.address for replica in self.replicas if replica.address is not None]
        return self._turn.choice(found) if found else None

    @property
    def _tail(self) -> str:
        return "\n".join(service.tail[-2_000:] for service in (self.learner, *self.replicas))

    def __enter__(self) -> Self:
        self.start(*self.replicas, self.learner)
        self.traffic.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.traffic.close()
        for service in (self.learner, *self.replicas):
            service.close()
        if isinstance(error, AssertionError):
            error.add_note(self._tail)


def _ready(service: Service) -> bool:
    return httpx.get(f"{service.address}/health/ready", trust_env=False, timeout=15.0).status_code == 200


def test_a_replica_and_the_learner_die_under_traffic(tmp_path: Path, template: Path) -> None:
    chance = random.Random(SEED)
    with BACKENDS["redis"](tmp_path / "data", template) as backend, Split(backend, tmp_path) as split:
        victim, survivor = split.replicas
        assert survivor.address is not None
        with Asker(survivor.address) as asker:
            split.taken(chance.randint(10, 20))
            victim.kill()
            split.taken(chance.randint(5, 10))
            split.kill_learner()
            killed = len(asker.said) + 1  # one may have been on its way
            split.taken(10)  # replicas go on taking, and predict with what they have
            split.until(lambda: len(asker.said) >= killed + 20, "predict without a learner")
            alone = asker.said[killed:]
            split.start(split.learner, victim)
            split.until(lambda: asker.said[-1].step > alone[-1].step, "predict with a newer model")
            split.taken(10)
        split.finish()
        split.check()
    assert {said.status for said in asker.said} == {200}
    assert len({said.step for said in alone}) == 1
    ages = [said.staleness for said in alone]
    assert ages == sorted(ages)
    assert ages[-1] > ages[0]
