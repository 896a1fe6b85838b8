"""A run with deaths, and the run without them over the same log."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from tests.faults import victim
from tests.faults.backends import Backend
from tests.faults.digest import Run
from tests.faults.service import Service
from tests.faults.traffic import Traffic

STEP = 20
LONGEST = 150.0  # seconds for all deaths of one run: before pytest gives up on it and leaves its processes behind
ENVIRONMENT = {
    "WEIR_THREADS": "1",
    "WEIR_STEP_SIZE": str(STEP),
    "WEIR_STEP_LINGER_SECONDS": "3600",  # cuts then depend on the log alone
    "WEIR_CHECKPOINT_EVERY": "15",
    "WEIR_CHECKPOINTS_KEPT": "100000",
    "WEIR_LEARNER_LR": "0.02",
    "WEIR_LEARNER_MOMENTUM": "0.9",
    "WEIR_LEARNER_FREEZE_NORM": "false",
    "WEIR_GUARD_SAMPLE_RATE": "0.02",
    "WEIR_GUARD_STEP_RATE": "1e-6",
    "WEIR_GUARD_PRODUCER_RATE": "1e-6",
    "WEIR_GUARD_REFRESH": "3",
    "WEIR_CORRECTION_ENABLED": "true",
    "WEIR_CORRECTION_STEPS": "3",
}
RARE = ("command", "settle", "files", "lineage", "release", "checkpoint")  # points that few passings go by
WITHOUT_VACCINE = {"WEIR_GUARD_VACCINE": "false"}


@dataclass(frozen=True, slots=True)
class AtPoint:
    """Death at the ``passing``-th passing of a named point."""

    point: str
    passing: int

    def __str__(self) -> str:
        return f"{self.point} {self.passing}"


@dataclass(frozen=True, slots=True)
class After:
    """Death so many seconds after the service listens, or after its process began."""

    seconds: float
    listening: bool

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s after {'listening' if self.listening else 'the start'}"


Death = AtPoint | After


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial; ``recovery`` is seconds from a start to the first acknowledgement after it."""

    lives: int
    acknowledged: int
    lost: list[str]
    doubled: list[str]
    undecided: list[str]
    differences: list[str]
    steps: int
    held: int
    recovery: list[float]
    log: str  # the end of what the service wrote

    def check(self) -> None:
        """Raise AssertionError unless it ended as if nothing had happened."""
        wrong = {
            "acknowledged and lost": self.lost,
            "learned twice": self.doubled,
            "never decided on": self.undecided,
            "other than in the run in which nothing happened": self.differences,
        }
        told = [f"{what}: " + "\n  ".join(found) for what, found in wrong.items() if found]
        assert not told, "\n".join([*told, self.log])


def at_random(count: int, *, seed: int) -> list[Death]:
    """Deaths at random instants: most of them while it works, some while it starts."""
    chance = random.Random(seed)
    return [
        After(chance.uniform(0.0, 1.5), True) if chance.random() < 0.8 else After(chance.uniform(0.0, 3.0), False)
        for _ in range(count)
    ]


def at_points(*, seed: int) -> list[Death]:
    """A death at every named point: at one of its first passings, or at the very first where few go by."""
    chance = random.Random(seed)
    return [AtPoint(p, 1 if p.startswith(RARE) else chance.randint(2, 4)) for p in victim.POINTS]


def mixed(count: int, *, seed: int) -> list[Death]:
    """Deaths at random instants and, as many, at points drawn at random."""
    chance = random.Random(seed)
    points = chance.choices(victim.POINTS, k=count // 2)
    named: list[Death] = [AtPoint(p, 1 if p.startswith(RARE) else chance.randint(1, 12)) for p in points]
    deaths = [*at_random(count - len(named), seed=seed), *named]
    chance.shuffle(deaths)
    return deaths


class Trial:
    """A service under traffic, whose end is compared with that of a run in which nothing happened.

    ``log`` is a file beside which others of its name are written. Use it in a ``with``: nothing of it is left running.
    """

    def __init__(
        self,
        backend: Backend,
        log: Path,
        *,
        seed: int,
        environment: Mapping[str, str] = ENVIRONMENT,
        commands: bool = True,
    ) -> None:
        self.backend = backend
        self.service = Service({**environment, **backend.environment}, log, check=lambda: self.traffic.check())
        self.traffic = Traffic(lambda: self.service.address, seed=seed, commands=commands)
        self._log = log
        self._environment = environment
        self._starts: list[float] = []
        self._whole: list[bool] = []  # whether that start was all of a process, and not a fork

    def live(self, point: str | None = None, passing: int = 1) -> None:
        """Begin a life of the service."""
        self._starts.append(time.monotonic())
        self._whole.append(point is None)
        self.service.start(point, passing)

    def serve(self) -> None:
        """Begin a life and wait until requests are answered."""
        self.live()
        self.service.wait_until_it_listens()

    def die(self, death: Death) -> None:
        """Live until this death."""
        if isinstance(death, AtPoint):
            self.live(death.point, death.passing)
            status = self.service.wait_until_it_ends()
            assert status == -signal.SIGKILL, f"{death}: it ended with {status}\n{self.service.tail}"
            self.backend.outlive_lease()
        else:
            self.live()
            if death.listening:
                self.service.wait_until_it_listens()
            time.sleep(death.seconds)
            self.kill()

    def kill(self) -> None:
        """End this life."""
        self.service.kill()
        self.backend.outlive_lease()

    def wait_for(self, deliveries: int) -> None:
        """Wait until so many more deliveries are acknowledged."""
        wanted = len(self.traffic.acknowledged) + deliveries
        self.service.wait(lambda: len(self.traffic.acknowledged) >= wanted, "take deliveries")

    def finish(self) -> None:
        """Let the traffic end and the log be learned to its end: a last command closes the step that is not full."""
        try:
            self.traffic.finish()
            answer = self.traffic.order("POST", "/v1/checkpoints", json={"reason": "the end"})
            while answer.status_code == 202:  # still queued: the learner is behind
                answer = self.traffic.order("POST", "/v1/checkpoints", json={"reason": "the end"})
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.service.tail}") from error
        self.service.stop()

    def outcome(self, *, numbered: bool = True) -> Outcome:
        """What became of it; without ``numbered`` a checkpoint is known by its step, not by its number."""
        with self.backend.stores() as stores:
            ended = Run.read(stores, numbered=numbered)
        straight = run_straight(self.backend, self._log, self._environment, numbered=numbered)
        acknowledged = self.traffic.acknowledged
        return Outcome(
            lives=len(self._starts),
            acknowledged=len(acknowledged),
            lost=ended.lost(acknowledged),
            doubled=ended.doubled(),
            undecided=ended.undecided(),
            differences=ended.differences(straight),
            steps=ended.decisions[-1].step,
            held=len(ended.held),
            recovery=list(self._recoveries(sorted(each.at for each in acknowledged))),
            log=self.service.tail[-2_000:],
        )

    def _recoveries(self, acknowledged: Sequence[float]) -> Iterator[float]:
        """Seconds from a start to the first acknowledgement; none for the first start, a fork, or a life too short."""
        ends = [*self._starts[1:], float("inf")]
        for start, end, whole in list(zip(self._starts, ends, self._whole, strict=True))[1:]:
            first = next((at for at in acknowledged if start <= at < end), None)
            if whole and first is not None:
                yield first - start

    def __enter__(self) -> Self:
        self.traffic.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.traffic.close()
        self.service.close()


def run_straight(backend: Backend, log: Path, environment: Mapping[str, str], *, numbered: bool = True) -> Run:
    """The log of a backend, learned by a service that nothing happens to; it writes beside the file ``log``."""
    place = log.with_name(f"{log.name}-straight")
    with backend.copy(place / "data") as copy:
        with copy.stores() as stores:
            tail = stores.log.tail()
        with Service({**environment, **copy.environment}, place / "log") as service:
            service.start()
            service.wait_until_it_listens()
            _learn(service, tail)
            service.stop()
        with copy.stores() as stores:
            return Run.read(stores, numbered=numbered)


def _learn(service: Service, tail: int) -> None:
    """Wait until the log is learned up to here: on a slow machine that takes long, but it never stands still."""
    learned = -1

    def goes_on() -> bool:
        return _position(service) > learned

    while learned < tail:
        service.wait(goes_on, "learn on")
        learned = _position(service)


def run(
    backend: Backend,
    log: Path,
    deaths: Sequence[Death],
    *,
    seed: int,
    environment: Mapping[str, str] = ENVIRONMENT,
    seconds: float = LONGEST,
) -> Outcome:
    """Let a service die these deaths under traffic, bring it to its end, and compare that with a straight run."""
    deadline = time.monotonic() + seconds
    with Trial(backend, log, seed=seed, environment=environment) as trial:
        for number, death in enumerate(deaths):
            assert time.monotonic() < deadline, f"only {number} deaths in {seconds:g} s\n{trial.service.tail}"
            trial.die(death)
        trial.serve()
        trial.finish()
    return trial.outcome()


def _position(service: Service) -> int:
    answer = httpx.get(f"{service.address}/v1/model", trust_env=False, timeout=15.0).json()
    assert answer["alive"], f"{answer['failure']}\n{service.tail}"
    return int(answer["position"])
