"""The learner on its own: it learns what others put in the log, publishes it, and answers only who looks after it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.api.conftest import serving
from tests.redis_server import RedisServer
from tests.serving.conftest import heard, stored, until
from tests.test_serving import engine, samples

from weir import codec, config, folder
from weir.serving import learner
from weir.stores.base import EntryKind
from weir.trainer import initialise
from weir.types import Batch

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.usefixtures("quick")]


@pytest.fixture
def settings(redis_server: RedisServer, prefix: str, tmp_path: Path) -> config.Settings:
    made = config.load(role="learner", data=tmp_path, redis_url=redis_server.url, redis_prefix=prefix, port=8790)
    with folder.stores(made) as stores:
        initialise(stores, engine(), at=1.0)
    return made


def test_what_others_sent_is_learned_and_published_to_the_last_step(settings: config.Settings) -> None:
    with learner.running(settings) as own:
        publications = own.stores.publications
        assert publications is not None
        until(lambda: (word := heard(publications)) and word.status.alive, "the first word")
        found = heard(publications)
        assert found is not None
        assert found.address == "http://127.0.0.1:8790"
        own.stores.log.append(EntryKind.BATCH, "ann", codec.encode(Batch(*samples(30, seed=3))), samples=30)
        until(lambda: stored(publications) == 1, "the step is published")
    with folder.shared(settings) as (_, after):
        found = heard(after)
        assert found is not None
        assert (found.status.alive, found.status.step, found.current) == (False, 1, True)
        assert found.status.checkpoint == found.checkpoints[-1].id


def test_it_answers_operations_and_replays_and_nobody_else(settings: config.Settings) -> None:
    with learner.running(settings) as own, serving(own.app) as address:
        http = httpx.Client(base_url=address, trust_env=False)
        with http:
            assert http.get("/health/live").status_code == 200
            assert http.get("/health/ready").json()["ready"]
            assert http.get("/v1/replay").json()["items"] == []
            scraped = http.get("/metrics").text
            for path in ("/v1/batches", "/v1/predict"):
                assert http.post(path, json={}).status_code == 404
            assert http.get("/v1/model").status_code == 404
    assert "weir_learner_up 1.0" in scraped
    assert "\nweir_model_staleness_seconds" not in scraped  # it predicts for nobody


def test_a_learner_that_listens_everywhere_is_found_by_the_name_of_its_machine(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "learner")
    for host, address in (
        ("0.0.0.0", "http://learner:8790"),
        ("::", "http://learner:8790"),
        ("::1", "http://[::1]:8790"),
        ("weir.example", "http://weir.example:8790"),
    ):
        assert learner.found_at(settings.model_copy(update={"host": host})) == address
