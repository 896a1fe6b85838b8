"""Producers at twice the learner's speed: nothing acknowledged is lost, the memory is bounded, predictions go on.

``python -m tests.faults.pressure --seconds 60 --store sqlite`` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.faults.backends import BACKENDS, Backend
from tests.faults.digest import Run
from tests.faults.harness import ENVIRONMENT, WITHOUT_VACCINE
from tests.faults.model import burned_in, samples
from tests.faults.service import Service

from weir.client import Client

BATCH = 20
PRODUCERS = 4
OVERLOAD = 2.0
SETTINGS = {
    **ENVIRONMENT,
    **WITHOUT_VACCINE,
    "WEIR_CHECKPOINTS_KEPT": "10",
    "WEIR_STEP_LINGER_SECONDS": "0.2",
    "WEIR_LOG_MAX_BATCHES": "400",
    "WEIR_PRODUCER_MAX_BATCHES": "150",
    "WEIR_QUARANTINE_MAX_SAMPLES": "10000000",
    "WEIR_QUARANTINE_PRODUCER_MAX": "10000000",
}


class Producer(threading.Thread):
    """Sends batches at a rate until a time, each until it is taken; ``number`` makes its samples its own."""

    def __init__(self, address: str, number: int, per_second: float, until: float) -> None:
        super().__init__(name=f"producer-{number}", daemon=True)
        self._client = Client(address, producer=self.name, patience=300.0)
        self._number = number
        self._pace = 1.0 / per_second
        self._until = until
        self.acknowledged: list[str] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._send()
        except Exception as error:  # told by whoever joins
            self.error = error

    def _send(self) -> None:
        due = time.monotonic()
        while time.monotonic() < self._until:
            x, y = samples(BATCH, seed=self._number + PRODUCERS * len(self.acknowledged))
            self.acknowledged.append(self._client.send(x, y).id)
            due += self._pace
            time.sleep(max(0.0, due - time.monotonic()))


def measure(backend: Backend, folder: Path, seconds: float) -> dict[str, Any]:
    """One run over one store."""
    with Service({**SETTINGS, **backend.environment}, folder / "log") as service:
        service.start()
        service.wait_until_it_listens()
        assert service.address is not None
        speed = _speed(service)
        with _watched(service) as memory:
            idle = _latencies(service.address, min(10.0, seconds))
            before = memory()
            producers, busy = _overload(service, speed, seconds)
            most = memory()
        service.wait(lambda: _backlog(service) == 0, "learn what it took", seconds=600.0)
        service.stop()
    acknowledged = [id for producer in producers for id in producer.acknowledged]
    with backend.stores() as stores:
        ended = Run.read(stores)
    known = {entry.id for entry in ended.entries}
    return {
        "seconds": seconds,
        "learned_samples_per_second": round(speed),
        "offered_samples_per_second": round(OVERLOAD * speed),
        "taken_samples_per_second": round(len(acknowledged) * BATCH / seconds),
        "acknowledged": len(acknowledged),
        "lost": len(set(acknowledged) - known),
        "doubled": len(ended.doubled()),
        "undecided": len(ended.undecided()),
        "memory_mib": {"before": before, "most": most},
        "predict_ms": {
            name: {"p50": _milliseconds(found, 0.5), "p99": _milliseconds(found, 0.99)}
            for name, found in (("idle", idle), ("loaded", busy))
        },
        "predict_p99_ratio": round(_milliseconds(busy, 0.99) / _milliseconds(idle, 0.99), 2),
    }


def _speed(service: Service) -> float:
    """Samples a second that the learner learns when nothing keeps it waiting and nobody sends."""
    client = Client(str(service.address), producer="producer-warm-up", patience=60.0)
    for number in range(140):
        client.send(*samples(BATCH, seed=10_000_000 + number))
    begun, first = time.monotonic(), _model(service)["position"]
    service.wait(lambda: _backlog(service) == 0, "learn what it took")
    return float((_model(service)["position"] - first) * BATCH / (time.monotonic() - begun))


def _overload(service: Service, speed: float, seconds: float) -> tuple[list[Producer], list[float]]:
    """Send for so many seconds; the producers with what they got acknowledged, and how long predictions took."""
    until = time.monotonic() + seconds
    pace = OVERLOAD * speed / BATCH / PRODUCERS
    producers = [Producer(str(service.address), number, pace, until) for number in range(PRODUCERS)]
    for producer in producers:
        producer.start()
    latencies = _latencies(str(service.address), seconds)
    for producer in producers:
        producer.join()
        if producer.error is not None:
            raise AssertionError(f"{producer.name} gave up\n{service.tail}") from producer.error
    return producers, latencies


def _latencies(address: str, seconds: float) -> list[float]:
    """Seconds that predictions of one sample took, twenty of them a second."""
    x, _ = samples(1, seed=1)
    found, until = [], time.monotonic() + seconds
    with httpx.Client(base_url=address, trust_env=False, timeout=60.0) as http:
        while time.monotonic() < until:
            begun = time.perf_counter()
            http.post("/v1/predict", json={"x": x.tolist()}).raise_for_status()
            found.append(time.perf_counter() - begun)
            time.sleep(0.05)
    return found


@contextmanager
def _watched(service: Service) -> Iterator[Callable[[], int]]:
    """Watches the service's memory; what it gives tells the most since it was last asked, in MiB."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            most[0] = max(most[0], service.memory if service.exit is None else 0)

    def told() -> int:
        value, most[0] = most[0], 0
        return value >> 20

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield told
    ended.set()
    thread.join()


def _model(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{service.address}/v1/model", trust_env=False, timeout=60.0).json()
    return answer


def _backlog(service: Service) -> int:
    text = httpx.get(f"{service.address}/metrics", trust_env=False, timeout=60.0).text
    (line,) = [line for line in text.splitlines() if line.startswith("weir_inbox_batches ")]
    return int(float(line.split()[1]))


def _milliseconds(latencies: list[float], quantile: float) -> float:
    return round(1000.0 * sorted(latencies)[min(len(latencies) - 1, int(quantile * len(latencies)))], 2)


def main() -> None:
    """Run it and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--store", choices=sorted(BACKENDS), default="sqlite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weir-pressure-") as place:
        folder = Path(place)
        burned_in(folder / "template", SETTINGS)
        with BACKENDS[given.store](folder / "data", folder / "template") as backend:
            found = {"store": given.store, **measure(backend, folder, given.seconds)}
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
