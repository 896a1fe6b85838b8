"""The model: where it stands, and its weights as they are."""

from __future__ import annotations

import json

from tests.api.conftest import RECIPE, House, batch

from weir.codec import SAFETENSORS, decode_tensors
from weir.types import Recipe


def test_the_model_tells_where_it_stands(service_app: House) -> None:
    service_app.send(batch())
    seen = service_app.caller("reader").get("/v1/model").json()
    status = service_app.trainer.status
    assert seen["updates"] == status.updates == 1
    assert seen["parameters"] == status.parameters
    assert (seen["alive"], seen["failure"]) == (True, None)
    assert (seen["mode"], seen["armed"], seen["unarmed_because"]) == ("weir", True, None)
    assert seen["checkpoint"] in [info.id for info in service_app.stores.checkpoints.all()]
    assert seen["recipe"]["model"] == "mlp"
    assert seen["recipe"]["inputs"] == {
        "shape": [2, 2],
        "classes": 3,
        "low": 0.0,
        "high": 1.0,
        "categorical": [],
        "center": None,
        "scale": None,
    }


def test_the_weights_are_the_published_ones_and_say_how_to_build_the_model(service_app: House) -> None:
    answer = service_app.caller("reader").get("/v1/model/weights")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, SAFETENSORS)
    tensors, metadata = decode_tensors(answer.content)
    publication = service_app.trainer.publication
    assert tensors.keys() == publication.weights.keys()
    assert all(tensors[name].equal(tensor) for name, tensor in publication.weights.items())
    assert metadata["step"] == answer.headers["X-Weir-Model-Step"] == str(publication.step)
    assert Recipe.from_values(json.loads(metadata["recipe"])) == RECIPE


def test_weights_and_thresholds_are_for_readers_only(unmoved: House) -> None:
    for name in ("alice", "reviewer"):
        for path in ("/v1/model", "/v1/model/weights"):
            answer = unmoved.caller(name).get(path)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
