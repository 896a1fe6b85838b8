"""A real Weir under a real attack, scraped by a real Prometheus with the rules of this folder."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from weir.demo import story
from weir.demo.services import WAIT_SECONDS, Service, running
from weir.demo.story import Parts, Phase, Plan
from weir.redteam import ThreatModel
from weir.redteam.producer import HostileProducer
from weir.types import GuardMode

CONFIGURATION = Path(__file__).parents[1] / "prometheus"
START_SECONDS = 30.0
SCRAPE_SECONDS = 1
Answer = list[dict[str, Any]]


class Prometheus:
    """One that runs, and what it can be asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=10)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def get(self, path: str, **parameters: object) -> Any:
        """The data of an answer of the HTTP API."""
        texts = {name: str(value) for name, value in parameters.items()}
        return self._client.get(f"/api/v1/{path}", params=texts).raise_for_status().json()["data"]

    def query(self, expr: str) -> Answer:
        """The value of this moment of each series."""
        found: Answer = self.get("query", query=expr)["result"]
        return found

    def range(self, expr: str, start: float, end: float, step: float = SCRAPE_SECONDS) -> Answer:
        """The values of each series over a time."""
        found: Answer = self.get("query_range", query=expr, start=start, end=end, step=step)["result"]
        return found

    def wait(self, expr: str, seconds: float = 20.0) -> Answer:
        """The answer, as soon as there is one; raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not (found := self.query(expr)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expr}: no answer in {seconds:g} s")
            time.sleep(0.2)
        return found


@contextmanager
def scraping(services: Sequence[Service], folder: Path) -> Iterator[Prometheus]:
    """Prometheus, as configured for production, but for where it scrapes and how often; ``folder`` takes its files."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    settings = folder / "prometheus.yml"
    settings.write_text(yaml.safe_dump(_settings(services, folder)))
    command = [
        "prometheus",
        f"--config.file={settings}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with closing(Prometheus(f"http://{address}")) as prometheus:
            _await(prometheus, process, folder / "prometheus.log")
            yield prometheus
    finally:
        process.terminate()
        process.wait(15)


def _settings(services: Sequence[Service], folder: Path) -> dict[str, Any]:
    given = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text())
    jobs = [_job(service, folder) for service in services]
    often = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    return {
        "global": {**given["global"], **often},
        "rule_files": [str(CONFIGURATION / files) for files in given["rule_files"]],
        "scrape_configs": jobs,
    }


def _job(service: Service, folder: Path) -> dict[str, Any]:
    """The job for one service: each has a key of its own."""
    key = folder / f"{service.name}-metrics-key"
    key.write_text(service.scraper.headers["Authorization"].removeprefix("Bearer "))
    target = {"targets": [service.url.removeprefix("http://")], "labels": {"instance": service.name, "job": "weir"}}
    return {
        "job_name": service.name,
        "authorization": {"credentials_file": str(key)},
        "static_configs": [target],
    }


def _await(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            prometheus.query("vector(1)")
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"Prometheus does not answer: {log.read_text()[-2000:]}")


@contextmanager
def serving(modes: Mapping[str, GuardMode], folder: Path, *, plan: Plan, seed: int) -> Iterator[tuple[Service, ...]]:
    """Services of the demo, one for each name in ``modes``, all from the same model."""
    engine = story.trained(plan, story.parts(plan, seed), seed, at=time.time())
    with running(engine, modes, folder) as services:
        yield services


def play(
    services: Sequence[Service], *, plan: Plan, seed: int, after: int = 20, pace: float = 0.0
) -> Iterator[tuple[Phase, float]]:
    """Send the demo's stream and its attack to every service, a batch each ``pace`` seconds; yields what was sent when.

    ``after`` honest batches follow the attack.
    """
    given = story.parts(plan, seed)
    hostile = {service.name: _hostile(service, plan, given, seed) for service in services}
    stream = iter(given.stream)
    for phase in plan.phases(plan.before + after):
        began = time.time()
        batch = None if phase.hostile else next(stream)
        for service in services:
            if batch is not None:
                service.honest.send(batch.x, batch.y, wait=WAIT_SECONDS)
            elif phase is Phase.TRIGGER:
                hostile[service.name].strike(wait=WAIT_SECONDS)
            else:
                hostile[service.name].prepare(plan.batch, wait=WAIT_SECONDS)
        time.sleep(max(0.0, began + pace - time.time()))
        yield phase, began


def _hostile(service: Service, plan: Plan, given: Parts, seed: int) -> HostileProducer:
    return HostileProducer(
        service.hostile,
        service.observer,
        given.attacker,
        threat=ThreatModel(epsilon=plan.epsilon),
        validation=plan.validation,
        strike=plan.trigger,
        seed=seed,
    )
