"""A replica: ready by itself, with no folder, no series of the learner's, and what it leaves to the learner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.api.conftest import serving
from tests.redis_server import RedisServer
from tests.serving.conftest import INFO, Scripted, X, until

from weir import config
from weir.errors import InvalidSetting
from weir.serving import replica
from weir.serving.publisher import Publisher
from weir.stores.base import EntryKind
from weir.stores.redis import Redis

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.usefixtures("quick")]


@dataclass(frozen=True)
class Asked:
    """A replica that is served, and the learner that it follows."""

    http: httpx.Client
    data: Path
    learner: Scripted
    publisher: Publisher
    stores: Redis


@pytest.fixture
def asked(stores: Redis, redis_server: RedisServer, tmp_path: Path, prefix: str) -> Iterator[Asked]:
    settings = config.load(role="api", data=tmp_path / "none", redis_url=redis_server.url, redis_prefix=prefix)
    learner = Scripted()
    publisher = Publisher(learner, stores.publications, every=0, address="http://learner:8790")
    with (
        replica.running(settings) as running,
        serving(running.app) as address,
        httpx.Client(base_url=address, trust_env=False, timeout=30) as client,
    ):
        yield Asked(client, settings.data, learner, publisher, stores)


def ready(asked: Asked) -> httpx.Response:
    return asked.http.get("/health/ready")


def test_it_is_ready_once_it_has_a_model_and_stays_so_without_the_learner(asked: Asked) -> None:
    answer = ready(asked)
    assert (answer.status_code, answer.json()["because"]) == (503, ["no model is published yet"])
    assert asked.http.post("/v1/predict", json={"x": X.tolist()}).status_code == 503
    assert asked.http.get("/v1/checkpoints").json()["code"] == "not_ready"
    with asked.publisher:
        until(lambda: ready(asked).status_code == 200, "ready by itself")
        until(lambda: ready(asked).json()["learner_alive"], "the learner is heard")
    until(lambda: not ready(asked).json()["learner_alive"], "the learner is given up")
    answer = ready(asked)
    assert answer.status_code == 200
    assert answer.json()["staleness_seconds"] > 0
    command = asked.http.post("/v1/checkpoints")
    assert (command.status_code, command.json()["code"]) == (503, "not_ready")
    assert not asked.data.exists()


def test_a_prediction_says_how_stale_its_model_is(asked: Asked) -> None:
    with asked.publisher:
        until(lambda: ready(asked).status_code == 200, "ready")
    until(lambda: not ready(asked).json()["learner_alive"], "its last word is heard, and long ago")
    answers = [asked.http.post("/v1/predict", json={"x": X.tolist()}) for _ in range(2)]
    for answer in answers:
        said = answer.json()["staleness_seconds"]
        assert answer.headers["X-Weir-Staleness-Seconds"] == f"{said:.3f}"
    assert answers[1].json()["staleness_seconds"] >= answers[0].json()["staleness_seconds"] > 0
    assert answers[0].json()["logits"] == asked.learner.publication.predict(X).tolist()


def test_a_batch_is_in_the_log_that_the_learner_reads(asked: Asked) -> None:
    with asked.publisher:
        until(lambda: ready(asked).status_code == 200, "ready")
        taken = asked.http.post("/v1/batches", json={"x": X.tolist(), "y": [1]})
    assert taken.status_code == 202
    (entry,) = asked.stores.log.read(0, 10)
    assert (entry.id, entry.kind) == (taken.json()["id"], EntryKind.BATCH)
    assert asked.http.get(taken.headers["Location"]).json()["state"] == "queued"


def test_what_lies_on_the_learners_disk_is_listed_or_its_address_is_named(asked: Asked) -> None:
    with asked.publisher:
        until(lambda: ready(asked).status_code == 200, "ready")
        until(lambda: asked.http.get("/v1/checkpoints").status_code == 200, "the learner is heard")
        assert [item["id"] for item in asked.http.get("/v1/checkpoints").json()["items"]] == [INFO.id]
        for answer in (
            asked.http.get("/v1/replay"),
            asked.http.get("/v1/replay/r_1"),
            asked.http.post("/v1/replay", json={"checkpoint": INFO.id}),
            asked.http.post("/v1/replay/r_1/cancel"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (421, "elsewhere")
            assert "http://learner:8790" in answer.json()["detail"]


def test_no_series_of_a_replica_can_raise_an_alert_about_a_learner(asked: Asked) -> None:
    with asked.publisher:
        until(lambda: ready(asked).status_code == 200, "ready")
        lines = asked.http.get("/metrics").text.splitlines()
    series = {line.partition("{")[0].partition(" ")[0] for line in lines if line.startswith("weir_")}
    assert series == {
        "weir_batches_total",
        "weir_batches_created",
        "weir_model_step",
        "weir_model_staleness_seconds",
    }
    assert "weir_model_step 1.0" in lines


def test_a_replica_beyond_this_machine_needs_a_key(redis_server: RedisServer, prefix: str) -> None:
    exposed = config.load(role="api", host="0.0.0.0", redis_url=redis_server.url, redis_prefix=prefix)
    with pytest.raises(InvalidSetting, match="weir keys add"), replica.running(exposed):
        pass
