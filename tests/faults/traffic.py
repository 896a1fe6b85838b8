"""Seeded traffic that outlives the service: producers that repeat what was not acknowledged, and an operator."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from tests.faults.model import samples
from tests.faults.service import PATIENCE
from torch import Tensor

from weir import codec
from weir.codec import SAFETENSORS
from weir.types import Batch

PRODUCERS = ("ann", "bob", "eve")
WRONG = {"ann": 0.02, "bob": 0.0, "eve": 0.2}  # share of a producer's samples with a wrong label
PAUSE = 0.05  # seconds between two tries
BETWEEN = 0.12  # seconds between two deliveries of one producer, on average: the learner keeps up with that
PER_COMMAND = 4  # deliveries between two commands


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A delivery that the service has said to have: its id, who sent it, what was in it, and when it was said."""

    id: str
    producer: str
    content: str
    at: float


def content(x: Tensor, y: Tensor) -> str:
    """A name for what a delivery holds."""
    return hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()


class Traffic:
    """Producers and an operator, until ``finish``; the same seed plans the same requests.

    ``address`` tells where the service listens, None while it does not.
    """

    def __init__(self, address: Callable[[], str | None], *, seed: int, commands: bool = True) -> None:
        self._address = address
        self._seed = seed
        self._finishing = threading.Event()
        self._closing = threading.Event()
        self._client = httpx.Client(trust_env=False, timeout=15.0)
        self._failure: Exception | None = None
        self.acknowledged: list[Acknowledged] = []
        self.refused: list[tuple[int, str]] = []  # statuses and codes of the tries that failed
        jobs: list[Callable[[], None]] = [lambda name=name: self._produce(name) for name in PRODUCERS]  # type: ignore[misc]
        if commands:
            jobs.append(self._operate)
        self._threads = [threading.Thread(target=self._guarded, args=(job,), daemon=True) for job in jobs]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Let everyone bring what it has begun to its end; the service must be there for that."""
        self._finishing.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise AssertionError(f"a request was not answered in {PATIENCE:g} s, only {self.refused[-3:]}")
        self.check()

    def close(self) -> None:
        """Give up what is under way."""
        self._finishing.set()
        self._closing.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._client.close()

    def check(self) -> None:
        """Raise what a thread of this has failed with."""
        if self._failure is not None:
            raise self._failure

    def order(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a command until it is answered by something else than a failure, however often the service dies."""
        deadline = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < deadline and not self._closing.is_set():
            address = self._address()
            if address is not None:
                try:
                    answer = self._client.request(method, f"{address}{path}", **request)
                except httpx.TransportError:
                    self.refused.append((0, "no answer"))
                else:
                    if answer.status_code == 500:
                        raise AssertionError(f"{method} {path} was answered by {answer.text}")
                    if answer.status_code < 429:
                        return answer
                    self.refused.append((answer.status_code, str(answer.json().get("code"))))
            time.sleep(PAUSE)
        raise AssertionError(f"{method} {path} was not answered, only {self.refused[-3:]}")

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            self._failure = error

    def _produce(self, name: str) -> None:
        chance = random.Random(f"{self._seed} {name}")
        for number in itertools.count():
            if self._finishing.wait(chance.uniform(0, 2 * BETWEEN)):
                return
            self._deliver(name, number, chance)

    def _deliver(self, name: str, number: int, chance: random.Random) -> None:
        x, y = samples(chance.choice((1, 3, 8, 20, 31)), seed=chance.getrandbits(32), wrong=WRONG[name])
        headers = {"X-Weir-Producer": name, "Idempotency-Key": f"{name}-{number}", "Content-Type": SAFETENSORS}
        body = codec.encode(Batch(x, y))
        answer = self.order("POST", "/v1/batches", content=body, headers=headers)
        if answer.status_code != 202:
            raise AssertionError(f"a delivery was answered by {answer.status_code}: {answer.text}")
        self.acknowledged.append(Acknowledged(answer.json()["id"], name, content(x, y), time.monotonic()))

    def _operate(self) -> None:
        chance = random.Random(f"{self._seed} operator")
        for command in self._commands(chance):
            due = len(self.acknowledged) + PER_COMMAND
            while len(self.acknowledged) < due:
                if self._finishing.wait(PAUSE):
                    return
            command()

    def _commands(self, chance: random.Random) -> Iterator[Callable[[], None]]:
        while True:
            yield lambda: self._release(chance)
            yield self._save
            yield lambda: self._put("/v1/mode", mode="observe")
            yield lambda: self._release(chance)
            yield lambda: self._put("/v1/mode", mode="weir")
            yield lambda: self._roll_back(chance)
            yield lambda: self._probe(chance)

    def _release(self, chance: random.Random) -> None:
        held = self.order("GET", "/v1/quarantine", params={"state": "held", "limit": 100}).json()["items"]
        if held:
            sample = chance.choice(held)
            self.order("POST", f"/v1/quarantine/{sample['id']}/release", json={"label": chance.choice((None, 0))})

    def _save(self) -> None:
        self.order("POST", "/v1/checkpoints", json={})

    def _put(self, path: str, **body: Any) -> None:
        self.order("PUT", path, json=body)

    def _roll_back(self, chance: random.Random) -> None:
        known = self.order("GET", "/v1/checkpoints").json()["items"]
        self.order("POST", "/v1/rollback", json={"checkpoint": chance.choice(known[-5:])["id"]})

    def _probe(self, chance: random.Random) -> None:
        body = codec.encode(Batch(*samples(300, seed=chance.getrandbits(32))))
        self.order("PUT", "/v1/probe", content=body, headers={"Content-Type": SAFETENSORS})
