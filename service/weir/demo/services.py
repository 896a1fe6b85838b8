"""Three real services as processes, each with its own data folder and keys, and the clients that speak to them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from torch import Tensor

from weir import config, folder
from weir.api.auth import issue
from weir.client import BatchReceipt, BatchReport, Client, ModelReport
from weir.core import Engine
from weir.errors import NotReady, ServiceUnavailable
from weir.stores.base import Role
from weir.trainer import initialise
from weir.types import GuardMode

START_SECONDS = 60.0
STOP_SECONDS = 15.0
WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.02

_ROLES = {"honest": Role.PRODUCER, "hostile": Role.PRODUCER, "observer": Role.READER}
_LISTENING = re.compile(r"listening on (http://\S+)")
_GAUGE = re.compile(r"^(weir_\w+) (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Service:
    """One running service, as its producers and an observer with the role reader see it."""

    name: str
    url: str
    honest: Client
    hostile: Client
    observer: Client
    scraper: httpx.Client

    def settled(self, receipt: BatchReceipt | BatchReport) -> BatchReport:
        """A batch that was waited for, with the verdicts an observer sees; raises NotReady if it is still not learned.

        Waiting ends when the model that has learned it is the published one.
        """
        if not isinstance(receipt, BatchReport):
            raise NotReady(f"{self.name}: batch {receipt.id} was not learned in {WAIT_SECONDS:g} s")
        return self.observer.batch(receipt.id)

    def model(self) -> ModelReport:
        """Where the learner stands."""
        return self.observer.model()

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Of the published model on labelled samples."""
        return float((self.observer.predict(x).classes == y).double().mean())

    def gauges(self) -> dict[str, float]:
        """The metrics without labels, by name."""
        text = self.scraper.get(f"{self.url}/metrics").raise_for_status().text
        return {name: float(value) for name, value in _GAUGE.findall(text)}


@contextmanager
def running(engine: Engine, modes: Mapping[str, GuardMode], base: Path) -> Iterator[tuple[Service, ...]]:
    """One service per name in ``modes``, from equal data folders under ``base``, which also takes their logs.

    Raises ServiceUnavailable when one does not start. All processes have ended when this is left, whatever happens.
    """
    launched: list[_Process] = []
    try:
        with ExitStack() as stack:
            keys = {name: _furnish(base / name, engine) for name in modes}
            for name, mode in modes.items():
                launched.append(_launch(name, base, _environment(mode, engine)))
            yield tuple(_connect(process, keys[process.name], stack) for process in launched)
    finally:
        for process in launched:
            process.popen.terminate()
        for process in launched:
            process.end()


def _furnish(data: Path, engine: Engine) -> dict[str, str]:
    """A data folder with the model as burn-in left it and a key per role; the keys by their holders' names."""
    keys = {}
    with folder.stores(config.load(data=data)) as stores:
        initialise(stores, engine, at=time.time())
        for name, role in _ROLES.items():
            record, keys[name] = issue(name, [role], time.time)
            stores.keys.add(record)
    return keys


def _connect(process: _Process, keys: Mapping[str, str], stack: ExitStack) -> Service:
    url = process.url()
    clients = {name: stack.enter_context(Client(url, key, patience=5.0)) for name, key in keys.items()}
    bearer = {"Authorization": f"Bearer {keys['observer']}"}
    scraper = stack.enter_context(httpx.Client(headers=bearer, trust_env=False))
    clients["observer"].wait_ready(START_SECONDS)
    return Service(process.name, url, scraper=scraper, **clients)


@dataclass(frozen=True, slots=True)
class _Process:
    """A service's process and its log."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def url(self) -> str:
        """Where it listens; raises ServiceUnavailable when it ends or stays silent."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = _LISTENING.search(self._said())
            if found:
                return found[1]
            if self.popen.poll() is not None:
                break
            time.sleep(_POLL_SECONDS)
        last = self._said().strip().splitlines()[-1:] or ["it said nothing"]
        raise ServiceUnavailable(f"the {self.name} service did not start: {last[0]}")

    def end(self) -> None:
        """Wait until it has ended, by force if it takes its time."""
        try:
            self.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def _said(self) -> str:
        return self.log.read_text(errors="replace")


def _launch(name: str, base: Path, environment: Mapping[str, str]) -> _Process:
    command = [sys.executable, "-m", "weir", "serve", "--port", "0", "--data", str(base / name)]
    log = base / f"{name}.log"
    with log.open("wb") as output:
        # A working folder of its own: a weir.toml where the demo was started is meant for another service.
        popen = subprocess.Popen(
            command, cwd=base, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    return _Process(name, popen, log)


def _environment(mode: GuardMode, engine: Engine) -> dict[str, str]:
    """This process's, with the settings of the service and none of the user's own."""
    learner = engine.config.learner
    settings = {
        "GUARD_MODE": mode,
        "GUARD_SAMPLE_RATE": engine.config.guard.sample_rate,
        "LEARNER_LR": learner.lr,
        "LEARNER_MOMENTUM": learner.momentum,
        "SEED": engine.config.seed,
        "STEP_SIZE": engine.config.step_size,
        "THREADS": 1,
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(config.PREFIX)}
    return {**others, "OMP_NUM_THREADS": "1", **{config.PREFIX + name: str(value) for name, value in settings.items()}}
