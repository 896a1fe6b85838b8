"""Predictions: the published model's own, at any time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.api.conftest import House, Open, batch, samples

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
