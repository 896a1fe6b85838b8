"""Operations: metrics, liveness, readiness."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.api.conftest import NOW, House, Open, Scripted, batch

from weir.api.service import Limits
from weir.stores.base import CheckpointInfo, DeadLetter, Durability
from weir.types import LearnerStatus


@dataclass
class Unpublished:
    """A learner that has not published a model yet."""

    status: LearnerStatus
    publication: None = None
    staleness: None = None

    def attend(self) -> None:
        pass

    def checkpoints(self) -> Sequence[CheckpointInfo]:
        return ()


def test_metrics_show_what_was_learned(service_app: House) -> None:
    service_app.send(batch(strange=1))
    answer = service_app.caller("reader").get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert 'weir_samples_total{verdict="quarantine"} 1.0' in answer.text


def test_metrics_show_thresholds_and_are_not_for_producers(unmoved: House) -> None:
    assert unmoved.caller("alice").get("/metrics").status_code == 403
    assert unmoved.caller().get("/metrics").status_code == 401


def test_health_is_open_and_says_that_the_guard_is_armed(unmoved: House) -> None:
    assert unmoved.caller().get("/health/live").json() == {"status": "live"}
    answer = unmoved.caller().get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "because": [],
        "armed": True,
        "unarmed_because": None,
        "breaker_open": False,
        "waits_for": None,
        "learner_alive": True,
        "staleness_seconds": 0.0,
        "durability": "durable",
        "durability_because": [],
        "dead_letters": 0,
    }


def test_it_is_not_ready_without_a_trainer_and_lives_on(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, started=False) as house:
        answer = house.caller().get("/health/ready")
        assert (answer.status_code, answer.json()["because"]) == (503, ["the trainer has stopped"])
        assert house.caller().get("/health/live").status_code == 200


def test_before_the_first_publication_it_is_not_ready_and_says_so_everywhere(
    service_app: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Unpublished(service_app.trainer.status)
    monkeypatch.setattr(
        service_app.app.state, "service", dataclasses.replace(service_app.app.state.service, learner=learner)
    )
    answer = service_app.caller().get("/health/ready")
    assert (answer.status_code, answer.json()["because"]) == (503, ["no model is published yet"])
    admin = service_app.caller("admin")
    for refused in (
        admin.post("/v1/batches", json={"x": [[0, 0, 0, 0]], "y": [0]}),
        admin.post("/v1/predict", json={"x": [[0, 0, 0, 0]]}),
        admin.get("/v1/model/weights"),
    ):
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["Retry-After"]) >= 1
    assert admin.get("/v1/model").json()["recipe"] is None


def test_it_is_not_ready_when_the_log_does_not_answer(service_app: House) -> None:
    service_app.file.close()
    answer = service_app.caller().get("/health/ready")
    assert answer.status_code == 503
    assert "the log does not answer" in answer.json()["because"]


def test_an_unarmed_guard_says_why(service_app: House) -> None:
    service_app.caller("admin").put("/v1/mode", json={"mode": "observe"})
    answer = service_app.caller().get("/health/ready")
    assert (answer.status_code, answer.json()["armed"]) == (200, False)
    assert answer.json()["unarmed_because"] == "the mode is observe"


def test_a_learner_that_waits_is_not_ready_and_says_for_what(service_app: House) -> None:
    learner = Scripted(service_app.trainer)
    learner.status = dataclasses.replace(learner.status, waits_for="the disk is full")
    service_app.behave(learner=learner)
    answer = service_app.caller().get("/health/ready")
    assert (answer.status_code, answer.json()["because"]) == (503, ["the learner waits: the disk is full"])
    assert answer.json()["waits_for"] == "the disk is full"
    assert service_app.caller("reader").get("/v1/model").json()["waits_for"] == "the disk is full"


def test_relaxed_durability_is_said_by_readiness_and_by_every_202(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, started=False) as house:
        why = ("appendfsync is everysec: the last second may be lost",)
        house.behave(
            stores=dataclasses.replace(house.stores, durability=lambda: Durability(why)),
            learner=Scripted(house.trainer),
            limits=Limits(command_seconds=0.1),
        )
        ready = house.caller().get("/health/ready").json()
        assert (ready["ready"], ready["durability"], ready["durability_because"]) == (True, "relaxed", list(why))
        taken = house.caller("alice").post("/v1/batches", json={"x": [[0, 0, 0, 0]], "y": [0]})
        queued = house.caller("admin").post("/v1/checkpoints")
        for answer in (taken, queued):
            assert (answer.status_code, answer.json()["durability"]) == (202, "relaxed")


def test_readiness_counts_dead_letters_and_stays_ready(service_app: House) -> None:
    service_app.stores.dead_letters.put(DeadLetter("b", 0, 1, "alice", 1, "ValueError: no", b"", NOW))
    answer = service_app.caller().get("/health/ready")
    assert (answer.status_code, answer.json()["dead_letters"]) == (200, 1)
