"""Predictions: the published model's own, at any time."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.api.conftest import House, Open, batch, samples
from torch import Tensor

from weir.codec import SAFETENSORS, encode_x

BINARY = {"Content-Type": SAFETENSORS}


def test_a_prediction_is_what_the_published_model_says(service_app: House) -> None:
    x, y = samples(6, seed=3, noise=0.01)
    publication = service_app.trainer.publication
    answer = service_app.caller("reader").post("/v1/predict", json={"x": x.tolist()})
    assert answer.status_code == 200
    said = answer.json()
    logits = publication.predict(x)
    assert said["step"] == int(answer.headers["X-Weir-Model-Step"]) == publication.step
    assert said["staleness_seconds"] == float(answer.headers["X-Weir-Staleness-Seconds"]) == 0.0
    assert torch.tensor(said["logits"]).equal(logits)
    assert torch.tensor(said["probabilities"]).allclose(logits.softmax(1))
    assert said["classes"] == y.tolist()


def test_safetensors_and_json_get_the_same_answer(service_app: House) -> None:
    x, _ = samples(4, seed=3)
    reader = service_app.caller("reader")
    binary = reader.post("/v1/predict", content=encode_x(x), headers=BINARY)
    assert binary.json() == reader.post("/v1/predict", json={"x": x.tolist()}).json()


def test_the_step_of_the_answer_follows_learning(service_app: House) -> None:
    reader, x = service_app.caller("reader"), samples(1, seed=3)[0].tolist()
    before = reader.post("/v1/predict", json={"x": x}).json()
    service_app.send(batch())
    after = reader.post("/v1/predict", json={"x": x}).json()
    assert after["step"] > before["step"]
    assert after["logits"] != before["logits"]


def test_predictions_do_not_wait_for_a_learner_that_is_busy(service_app: House) -> None:
    service_app.stall()
    answer = service_app.caller("reader").post("/v1/predict", json={"x": samples(1, seed=3)[0].tolist()})
    assert answer.status_code == 200


def predicting_threads(house: House, seconds: float) -> list[str]:
    """The threads of three predictions, one after the other, by a model that takes so many seconds of a clock."""
    names: list[str] = []
    publication, elapsed = house.trainer.publication, 0.0

    def predict(x: Tensor) -> Tensor:
        nonlocal elapsed
        names.append(threading.current_thread().name)
        elapsed += seconds
        return publication.predict(x)

    house.trainer.publication = replace(publication, predict=predict)
    house.app.state.service.pace.clock = lambda: elapsed
    reader, body = house.caller("reader"), encode_x(samples(2, seed=3)[0])
    assert {reader.post("/v1/predict", content=body, headers=BINARY).status_code for _ in range(3)} == {200}
    return names


def test_a_model_known_to_be_quick_predicts_without_a_thread_of_its_own(service_app: House) -> None:
    unmeasured, *measured = predicting_threads(service_app, 0.0005)
    assert unmeasured.startswith("AnyIO worker thread")
    assert len(set(measured)) == 1
    assert not measured[0].startswith("AnyIO worker thread")


def test_a_slow_model_never_keeps_the_other_requests_waiting(service_app: House) -> None:
    names = predicting_threads(service_app, 0.01)
    assert all(name.startswith("AnyIO worker thread") for name in names)


def test_predictions_go_on_and_age_when_the_trainer_has_stopped(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, started=False) as house:
        reader, body = house.caller("reader"), {"x": samples(1, seed=3)[0].tolist()}
        answers = [reader.post("/v1/predict", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    first, second = (answer.json()["staleness_seconds"] for answer in answers)
    assert second >= first > 0


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"x": [[0.1, 0.2]]}, "x", "wrong_shape"),
        ({"x": [[0.1, 0.2, 0.3, 7.0]]}, "x[0]", "out_of_bounds"),
        ({"y": [1]}, "body", "unknown_field"),
    ],
)
def test_what_the_model_cannot_take_is_refused(unmoved: House, body: object, field: str, code: str) -> None:
    answer = unmoved.caller("reader").post("/v1/predict", json=body)
    assert (answer.status_code, answer.json()["field"], answer.json()["code"]) == (422, field, code)


@pytest.mark.parametrize("name", ["alice", "reviewer"])
def test_producers_and_reviewers_may_not_ask_the_model(unmoved: House, name: str) -> None:
    assert unmoved.caller(name).post("/v1/predict", json={"x": [[0, 0, 0, 0]]}).status_code == 403
