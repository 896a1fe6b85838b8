"""Everything a delivery can be wrong in: status, code and field are told, and nothing is half-taken."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.api.conftest import House, batch
from torch import Tensor

from weir.codec import SAFETENSORS, encode, encode_tensors
from weir.types import Batch

SOUND = batch()


def tensors(**parts: Tensor) -> bytes:
    """A safetensors body of any tensors."""
    return encode_tensors(parts, {})


def changed(index: int, value: float) -> bytes:
    """A sound body but for one number of x."""
    x = SOUND.x.clone()
    x[index, 1, 0] = value
    return encode(Batch(x, SOUND.y))


def labelled(index: int, label: int) -> bytes:
    """A sound body but for one label."""
    y = SOUND.y.clone()
    y[index] = label
    return encode(Batch(SOUND.x, y))


def as_json(**other: Any) -> bytes:
    """A sound JSON body but for some fields."""
    return json.dumps({"x": SOUND.x.tolist(), "y": SOUND.y.tolist(), **other}).encode()


BROKEN_SAFETENSORS = {
    "nothing at all": (b"", "body", "truncated"),
    "truncated": (encode(SOUND)[:-1], "body", "truncated"),
    "not safetensors": (b"\x80\x04K\x01." + b"." * 60, "body", "malformed_safetensors"),
    "a header of lies": (struct.pack("<Q", 1 << 60) + b"{}", "body", "malformed_safetensors"),
    "unknown tensor": (tensors(x=SOUND.x, y=SOUND.y, z=SOUND.y), "body", "unknown_tensor"),
    "missing tensor": (tensors(x=SOUND.x), "y", "missing_tensor"),
    "wrong dtype of x": (tensors(x=SOUND.x.double(), y=SOUND.y), "x", "wrong_dtype"),
    "wrong dtype of y": (tensors(x=SOUND.x, y=SOUND.y.int()), "y", "wrong_dtype"),
    "wrong shape": (tensors(x=SOUND.x[:, :1], y=SOUND.y), "x", "wrong_shape"),
    "empty": (tensors(x=SOUND.x[:0], y=SOUND.y[:0]), "x", "empty"),
    "length mismatch": (tensors(x=SOUND.x, y=SOUND.y[:-1]), "y", "length_mismatch"),
    "NaN": (changed(3, float("nan")), "x[3]", "not_finite"),
    "infinity": (changed(5, float("-inf")), "x[5]", "not_finite"),
    "out of bounds": (changed(2, 1.5), "x[2]", "out_of_bounds"),
    "label out of range": (labelled(4, 3), "y[4]", "label_out_of_range"),
    "negative label": (labelled(1, -1), "y[1]", "label_out_of_range"),
    "duplicate ids": (encode(Batch(SOUND.x, SOUND.y, tuple("abcdefga"))), "ids[7]", "duplicate_ids"),
    "too many samples": (
        tensors(x=torch.zeros(10_001, 2, 2), y=torch.zeros(10_001, dtype=torch.int64)),
        "x",
        "too_many_samples",
    ),
}
BROKEN_JSON = {
    "not JSON": (b"{", "body", "malformed_json"),
    "no object": (b"[]", "body", "malformed_json"),
    "NaN in JSON": (as_json(x=[[0, 0, 0, float("nan")]] * 8), "x[0]", "not_finite"),
    "text for a number": (as_json(x=[["0", 0, 0, 0]] * 8), "x[0][0]", "wrong_dtype"),
    "a label with a point": (as_json(y=[0.5] * 8), "y[0]", "wrong_dtype"),
    "unknown field": (as_json(z=1), "body", "unknown_field"),
    "no labels": (b'{"x": [[0, 0, 0, 0]]}', "y", "missing_field"),
    "duplicate ids in JSON": (as_json(ids=["a"] * 8), "ids[1]", "duplicate_ids"),
    "too few ids": (as_json(ids=["a"]), "ids", "length_mismatch"),
}
CASES = [pytest.param(SAFETENSORS, *case, id=name) for name, case in BROKEN_SAFETENSORS.items()]
CASES += [pytest.param("application/json", *case, id=name) for name, case in BROKEN_JSON.items()]


def post(house: House, body: bytes, headers: Mapping[str, str]) -> Any:
    """Deliver as alice, expecting that nothing changes; the problem."""
    before = house.stand()
    answer = house.caller("alice", **headers).post("/v1/batches", content=body)
    assert house.stand() == before
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    return problem


@pytest.mark.parametrize(("content_type", "body", "field", "code"), CASES)
def test_a_broken_body_is_422_and_says_where(
    unmoved: House, content_type: str, body: bytes, field: str, code: str
) -> None:
    problem = post(unmoved, body, {"Content-Type": content_type})
    assert (problem["status"], problem["code"], problem["field"]) == (422, code, field)
    assert problem["expected"]
    assert problem["seen"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "application/x-pickle", ""])
def test_another_content_type_is_415_and_names_those_that_serve(unmoved: House, content_type: str) -> None:
    problem = post(unmoved, encode(SOUND), {"Content-Type": content_type} if content_type else {})
    assert (problem["status"], problem["code"]) == (415, "unsupported_type")
    assert SAFETENSORS in problem["detail"]


@pytest.mark.parametrize("key", ["", "k" * 256, "k\tk"])
def test_an_idempotency_key_out_of_bounds_is_refused(unmoved: House, key: str) -> None:
    problem = post(unmoved, encode(SOUND), {"Content-Type": SAFETENSORS, "Idempotency-Key": key})
    assert (problem["status"], problem["field"]) == (422, "Idempotency-Key")


def test_a_used_idempotency_key_does_not_take_another_body(service_app: House) -> None:
    headers = {"Idempotency-Key": "one"}
    service_app.send(batch(), **headers)
    problem = post(service_app, encode(batch(seed=2)), {"Content-Type": SAFETENSORS, **headers})
    assert (problem["status"], problem["code"], problem["field"]) == (422, "key_reused", "Idempotency-Key")


@pytest.mark.parametrize("id", ["b_0", "x", "..", "%00", "b_0:0", "a" * 2000])
def test_an_unknown_batch_is_404(unmoved: House, id: str) -> None:
    before = unmoved.stand()
    answer = unmoved.caller("alice").get(f"/v1/batches/{id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert unmoved.stand() == before


def test_a_command_is_no_batch(service_app: House) -> None:
    service_app.caller("admin").post("/v1/checkpoints")
    entry = service_app.stores.log.read(0, 1)[0]
    assert service_app.caller("admin").get(f"/v1/batches/{entry.id}").status_code == 404
