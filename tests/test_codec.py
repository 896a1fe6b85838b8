"""Bodies of every kind, sound and broken: what decodes, and the code and place of what does not."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load as reference_load
from safetensors.torch import save as reference_save
from torch import Tensor

from weir import codec
from weir.errors import InvalidBatch, UnsupportedType
from weir.types import Batch, InputSpec

SPEC = InputSpec(shape=(2, 3), classes=4, low=0.0, high=1.0)
OPEN = InputSpec(shape=(2, 3), classes=4)


def x_of(samples: int = 3) -> Tensor:
    return torch.arange(samples * 6, dtype=torch.float32).reshape(samples, 2, 3) / (samples * 6)


def y_of(samples: int = 3) -> Tensor:
    return torch.arange(samples) % 4


def tensors_body(metadata: Mapping[str, str] | None = None, **tensors: Tensor) -> bytes:
    return reference_save(tensors, metadata=dict(metadata) if metadata else None)


def json_body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def raw_body(header: object, data: bytes = b"") -> bytes:
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def decode(content_type: str, body: bytes, spec: InputSpec = SPEC, max_samples: int = 100) -> Batch:
    return codec.decode(content_type, body, spec, max_samples=max_samples)


def refusal(content_type: str, body: bytes, spec: InputSpec = SPEC, max_samples: int = 100) -> InvalidBatch:
    with pytest.raises(InvalidBatch) as caught:
        decode(content_type, body, spec, max_samples)
    return caught.value


def assert_same(first: Batch, second: Batch) -> None:
    assert first.x.dtype == second.x.dtype
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    assert first.ids == second.ids


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_safetensors_keep_dtype_shape_and_ids(dtype: torch.dtype) -> None:
    x = (x_of() * 255).to(torch.uint8) if dtype == torch.uint8 else x_of().to(dtype)
    body = tensors_body({"ids": '["a", "b", "ü 3"]', "format": "pt"}, x=x, y=y_of())
    assert_same(decode(codec.SAFETENSORS, body), Batch(x, y_of(), ("a", "b", "ü 3")))


def test_json_becomes_float32() -> None:
    body = json_body(x=x_of().tolist(), y=y_of().tolist(), ids=["a", "b", "c"])
    assert_same(decode(codec.JSON, body), Batch(x_of(), y_of(), ("a", "b", "c")))


def test_json_takes_integers_and_null_ids() -> None:
    batch = decode(codec.JSON, json_body(x=[[[0, 1, 0], [1, 0.5, 1]]], y=[3], ids=None))
    assert_same(batch, Batch(torch.tensor([[[0.0, 1, 0], [1, 0.5, 1]]]), torch.tensor([3])))


def test_flat_rows_are_reshaped() -> None:
    flat = x_of().reshape(3, 6)
    expected = Batch(x_of(), y_of())
    assert_same(decode(codec.JSON, json_body(x=flat.tolist(), y=y_of().tolist())), expected)
    assert_same(decode(codec.SAFETENSORS, tensors_body(x=flat, y=y_of())), expected)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", " application/json ;charset=UTF-8"]
)
def test_content_type_parameters_and_case_are_tolerated(content_type: str) -> None:
    assert len(decode(content_type, json_body(x=x_of().tolist(), y=y_of().tolist()))) == 3


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-pickle", "application/jsonx"])
def test_other_content_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedType, match="vnd"):
        decode(content_type, b"{}")


def test_decoded_tensors_may_be_written() -> None:
    body = tensors_body(x=x_of(), y=y_of())
    kept = bytes(bytearray(body))
    batch = decode(codec.SAFETENSORS, body)
    batch.x.fill_(7)
    batch.y.fill_(7)
    assert body == kept


def test_bounds_are_compared_in_the_precision_of_x() -> None:
    spec = InputSpec(shape=(1,), classes=2, low=-0.1, high=0.7)
    for dtype in (torch.float16, torch.float32):
        x = torch.tensor([[-0.1], [0.7]], dtype=dtype)
        assert torch.equal(decode(codec.SAFETENSORS, tensors_body(x=x, y=torch.tensor([0, 1])), spec).x, x)


def test_bounds_past_float16_do_not_bind_it() -> None:
    spec = InputSpec(shape=(1,), classes=2, low=-1e9, high=1e9)
    x = torch.tensor([[65504.0]], dtype=torch.float16)
    assert len(decode(codec.SAFETENSORS, tensors_body(x=x, y=torch.tensor([0])), spec)) == 1


def test_each_feature_keeps_to_bounds_of_its_own() -> None:
    spec = InputSpec(shape=(2,), classes=2, low=(0.0, -5.0), high=(1.0, 100.0))
    assert len(decode(codec.JSON, json_body(x=[[1, -5], [0, 100]], y=[0, 1]), spec)) == 2
    error = refusal(codec.JSON, json_body(x=[[1, 50], [0, 101]], y=[0, 1]), spec)
    assert (error.field, error.seen, error.expected) == ("x[1]", "101", "feature 1 from -5 to 100")
    assert refusal(codec.JSON, json_body(x=[[50, 50]], y=[0]), spec).expected.startswith("feature 0 from 0 to 1")


def test_uint8_stands_for_the_unit_interval() -> None:
    body = tensors_body(x=torch.tensor([[0], [255]], dtype=torch.uint8), y=torch.tensor([0, 1]))
    assert len(decode(codec.SAFETENSORS, body, InputSpec((1,), 2))) == 2
    assert len(decode(codec.SAFETENSORS, body, InputSpec((1,), 2, low=-1.0, high=1.0))) == 2
    error = refusal(codec.SAFETENSORS, body, InputSpec((1,), 2, low=0.0, high=0.5))
    assert (error.code, error.field, error.seen) == ("out_of_bounds", "x[1]", "255")
    assert "value / 255" in error.expected


def test_max_samples_is_inclusive() -> None:
    assert len(decode(codec.SAFETENSORS, tensors_body(x=x_of(), y=y_of()), max_samples=3)) == 3


def good(**changed: object) -> bytes:
    return json_body(**{"x": x_of().tolist(), "y": [0, 1, 2], **changed})


def nested(place: tuple[int, int, int], value: object) -> list[Any]:
    x = x_of().tolist()
    x[place[0]][place[1]][place[2]] = value
    return x


JSON_REFUSALS = [
    ("malformed_json", "body", b""),
    ("malformed_json", "body", b'{"x": [[1'),
    ("malformed_json", "body", b"\xff\xfe{}"),
    ("malformed_json", "body", b"[1, 2]"),
    ("malformed_json", "body", b"[" * 100_000),
    ("malformed_json", "body", b'{"x": ' + b"9" * 5_000 + b"}"),
    ("unknown_field", "body", good(labels=[0, 1, 2])),
    ("missing_field", "y", json_body(x=[])),
    ("missing_field", "x", json_body(y=[])),
    ("empty", "x", good(x=[], y=[])),
    ("wrong_shape", "x", good(x=3)),
    ("wrong_shape", "x", good(x="abc")),
    ("wrong_shape", "x", good(x=[1, 2, 3])),
    ("wrong_shape", "x", good(x=[[], [], []])),
    ("wrong_shape", "x", good(x=[[[[1.0]]]] * 3)),
    ("wrong_shape", "x", good(x=torch.zeros(3, 3, 2).tolist())),
    ("wrong_shape", "x[2]", good(x=[[0] * 6, [0] * 6, [0] * 5])),
    ("wrong_shape", "x[0]", good(x=[[0] * 5, [0] * 6, [0] * 6])),
    ("wrong_shape", "x[1]", good(x=[[0] * 6, 5, [0] * 6])),
    ("wrong_shape", "x[1][0]", good(x=[[[0] * 3] * 2, [[0] * 2, [0] * 3], [[0] * 3] * 2])),
    ("wrong_dtype", "x[1][0][2]", good(x=nested((1, 0, 2), True))),
    ("wrong_dtype", "x[2][1][0]", good(x=nested((2, 1, 0), "0.5"))),
    ("wrong_dtype", "x[0][1][1]", good(x=nested((0, 1, 1), None))),
    ("wrong_dtype", "x[0][0][0]", good(x=nested((0, 0, 0), {"a": 1}))),
    ("wrong_dtype", "x[0][0][1]", good(x=nested((0, 0, 1), [0.5]))),
    ("not_finite", "x[1]", good(x=nested((1, 1, 2), float("nan")))),
    ("not_finite", "x[2]", good(x=nested((2, 0, 0), float("-inf")))),
    ("not_finite", "x[0]", good(x=nested((0, 0, 0), 0)).replace(b"[0,", b"[1e999,", 1)),
    ("not_finite", "x[1]", good(x=nested((1, 0, 0), 1e39))),
    ("not_finite", "x[1]", good(x=nested((1, 0, 0), 10**400))),
    ("out_of_bounds", "x[2]", good(x=nested((2, 1, 2), 1.01))),
    ("out_of_bounds", "x[0]", good(x=nested((0, 0, 1), -1))),
    ("wrong_shape", "y", good(y=1)),
    ("wrong_dtype", "y[0]", good(y=[[0], [1], [2]])),
    ("wrong_dtype", "y[1]", good(y=[0, True, 1])),
    ("wrong_dtype", "y[2]", good(y=[0, 1, 2.0])),
    ("length_mismatch", "y", good(y=[0, 1])),
    ("length_mismatch", "y", good(y=[])),
    ("label_out_of_range", "y[1]", good(y=[0, 4, 9])),
    ("label_out_of_range", "y[2]", good(y=[0, 0, -1])),
    ("wrong_dtype", "y[0]", good(y=[10**30, 0, 0])),
    ("invalid_ids", "ids", good(ids="abc")),
    ("invalid_ids", "ids[1]", good(ids=["a", 2, "c"])),
    ("invalid_ids", "ids[0]", good(ids=["", "b", "c"])),
    ("invalid_ids", "ids[2]", good(ids=["a", "b", "c" * 129])),
    ("invalid_ids", "ids[2]", good(ids=["a", "b", "c\n"])),
    ("invalid_ids", "ids[0]", good(ids=["\ud800", "b", "c"])),
    ("length_mismatch", "ids", good(ids=["a", "b"])),
    ("duplicate_ids", "ids[2]", good(ids=["a", "b", "a"])),
]


@pytest.mark.parametrize(("code", "field", "body"), JSON_REFUSALS)
def test_json_refusals_name_the_place(code: str, field: str, body: bytes) -> None:
    error = refusal(codec.JSON, body)
    assert (error.code, error.field) == (code, field)
    assert len(str(error)) < 400


def with_nan(value: float) -> Tensor:
    x = x_of()
    x[1, 0, 0] = value
    return x


SAFETENSORS_REFUSALS = [
    ("truncated", "body", b""),
    ("truncated", "body", b"abc"),
    ("truncated", "body", tensors_body(x=x_of(), y=y_of())[:40]),
    ("truncated", "body", tensors_body(x=x_of(), y=y_of())[:-1]),
    ("malformed_safetensors", "body", tensors_body(x=x_of(), y=y_of()) + b"\0"),
    ("malformed_safetensors", "body", good()),
    ("malformed_safetensors", "body", b"\x80\x04\x95" + bytes(200)),
    ("malformed_safetensors", "body", raw_body([])),
    ("malformed_safetensors", "body", raw_body({"__metadata__": {"ids": 3}})),
    ("malformed_safetensors", "body", struct.pack("<Q", 50_000) + b"[" * 50_000),
    ("unknown_tensor", "body", tensors_body(x=x_of(), y=y_of(), ids=y_of() + 1)),
    ("missing_tensor", "x", raw_body({})),
    ("missing_tensor", "y", tensors_body(x=x_of())),
    ("wrong_dtype", "x", tensors_body(x=x_of().double(), y=y_of())),
    ("wrong_dtype", "x", tensors_body(x=x_of().bfloat16(), y=y_of())),
    ("wrong_dtype", "x", tensors_body(x=x_of().bool(), y=y_of())),
    ("wrong_dtype", "y", tensors_body(x=x_of(), y=y_of().int())),
    ("wrong_dtype", "y", tensors_body(x=x_of(), y=y_of().float())),
    ("wrong_shape", "x", tensors_body(x=x_of().reshape(18), y=y_of())),
    ("wrong_shape", "x", tensors_body(x=torch.tensor(1.0), y=y_of())),
    ("wrong_shape", "x", tensors_body(x=torch.zeros(3, 3, 2), y=y_of())),
    ("wrong_shape", "x", tensors_body(x=x_of().reshape(3, 2, 3, *[1] * 200), y=y_of())),
    ("wrong_shape", "y", tensors_body(x=x_of(), y=y_of().reshape(3, 1))),
    ("wrong_shape", "y", tensors_body(x=x_of(), y=torch.tensor(1))),
    ("empty", "x", tensors_body(x=x_of(0), y=y_of(0))),
    ("empty", "x", raw_body({name: {"dtype": "F32", "shape": [0, 2**62, 8], "data_offsets": [0, 0]} for name in "xy"})),
    ("length_mismatch", "y", tensors_body(x=x_of(), y=y_of(2))),
    ("length_mismatch", "y", tensors_body(x=x_of(), y=y_of(0))),
    ("not_finite", "x[1]", tensors_body(x=with_nan(float("nan")), y=y_of())),
    ("not_finite", "x[1]", tensors_body(x=with_nan(float("-inf")), y=y_of())),
    ("out_of_bounds", "x[1]", tensors_body(x=with_nan(-0.5), y=y_of())),
    ("out_of_bounds", "x[1]", tensors_body(x=with_nan(1.5).half(), y=y_of())),
    ("label_out_of_range", "y[0]", tensors_body(x=x_of(), y=y_of() - 1)),
    ("label_out_of_range", "y[1]", tensors_body(x=x_of(), y=y_of() + 3)),
    ("invalid_ids", "ids", tensors_body({"ids": "[1"}, x=x_of(), y=y_of())),
    ("invalid_ids", "ids", tensors_body({"ids": "[" * 50_000}, x=x_of(), y=y_of())),
    ("invalid_ids", "ids", tensors_body({"ids": "{}"}, x=x_of(), y=y_of())),
    ("invalid_ids", "ids[0]", tensors_body({"ids": "[1, 2, 3]"}, x=x_of(), y=y_of())),
    ("duplicate_ids", "ids[1]", tensors_body({"ids": '["a", "a", "b"]'}, x=x_of(), y=y_of())),
]


@pytest.mark.parametrize(("code", "field", "body"), SAFETENSORS_REFUSALS)
def test_safetensors_refusals_name_the_place(code: str, field: str, body: bytes) -> None:
    error = refusal(codec.SAFETENSORS, body)
    assert (error.code, error.field) == (code, field)
    assert len(str(error)) < 400


def test_too_many_samples_are_refused_in_both_types() -> None:
    for content_type, body in ((codec.JSON, good()), (codec.SAFETENSORS, tensors_body(x=x_of(), y=y_of()))):
        error = refusal(content_type, body, max_samples=2)
        assert (error.code, error.seen, error.expected) == ("too_many_samples", "3 samples", "at most 2 in a batch")


def test_a_wrong_shape_is_told_the_right_one() -> None:
    error = refusal(codec.SAFETENSORS, tensors_body(x=torch.zeros(5, 7), y=y_of(5)))
    assert (error.seen, error.expected) == ("[5, 7]", "[n, 2, 3] or [n, 6]")


def test_a_truncated_body_is_told_its_size() -> None:
    body = tensors_body(x=x_of(), y=y_of())
    assert refusal(codec.SAFETENSORS, body[:-4]).seen == f"{len(body) - 4} bytes"
    assert str(len(body)) in refusal(codec.SAFETENSORS, body[:-4]).expected


def test_unscaled_pixels_get_a_hint_and_other_values_do_not() -> None:
    assert "divide by 255" in refusal(codec.JSON, good(x=(x_of() * 255).tolist())).expected
    assert "divide by 255" not in refusal(codec.JSON, good(x=nested((0, 0, 0), 1.5))).expected
    wide = InputSpec(SPEC.shape, 4, low=-3.0, high=3.0)
    assert "divide by 255" not in refusal(codec.JSON, good(x=(x_of() * 255).tolist()), wide).expected


def test_unbounded_values_pass() -> None:
    assert len(decode(codec.JSON, good(x=(x_of() * 1e6 - 5).tolist()), OPEN)) == 3


@pytest.mark.parametrize(
    ("content_type", "body"),
    [(codec.JSON, json_body(x=x_of().tolist())), (codec.SAFETENSORS, tensors_body(x=x_of()))],
)
def test_samples_alone_decode_for_prediction(content_type: str, body: bytes) -> None:
    assert torch.equal(codec.decode_x(content_type, body, SPEC, max_samples=3), x_of())
    with pytest.raises(InvalidBatch) as caught:
        codec.decode_x(content_type, body, SPEC, max_samples=2)
    assert caught.value.code == "too_many_samples"


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        (codec.JSON, good(), "unknown_field"),
        (codec.SAFETENSORS, tensors_body(x=x_of(), y=y_of()), "unknown_tensor"),
        (codec.SAFETENSORS, tensors_body(x=with_nan(float("nan"))), "not_finite"),
        (codec.SAFETENSORS, tensors_body(x=with_nan(2.0)), "out_of_bounds"),
    ],
)
def test_prediction_follows_the_same_rules(content_type: str, body: bytes, code: str) -> None:
    with pytest.raises(InvalidBatch) as caught:
        codec.decode_x(content_type, body, SPEC, max_samples=9)
    assert caught.value.code == code


@pytest.mark.parametrize("ids", [None, ("a", "b", 'c "ü"')])
def test_encode_and_load_are_inverse(ids: tuple[str, ...] | None) -> None:
    batch = Batch(x_of().transpose(1, 2).contiguous().transpose(1, 2), y_of(), ids)
    payload = codec.encode(batch)
    assert_same(codec.load(payload), batch)
    assert_same(decode(codec.SAFETENSORS, payload), batch)
    assert codec.encode(codec.load(payload)) == payload


@pytest.mark.parametrize("ids", [None, ("a", "b", "c")])
def test_bytes_that_are_already_as_they_would_be_encoded_are_not_made_anew(ids: tuple[str, ...] | None) -> None:
    body = codec.encode(Batch(x_of(), y_of(), ids))
    assert codec.encode(decode(codec.SAFETENSORS, body), source=body) is body


@pytest.mark.parametrize(
    "change", ["flat rows", "another shape", "another order", "strings beside it", "no source", "another batch"]
)
def test_other_bytes_are_encoded_anew(change: str) -> None:
    batch = Batch(x_of(), y_of())
    expected = codec.encode(batch)
    source = {
        "flat rows": codec.encode(Batch(x_of().flatten(1), y_of())),
        "another shape": expected.replace(b"[3,2,3]", b"[3,6,1]"),
        "another order": reference_save({"y": y_of(), "x": x_of()}, {"a": "1"}),
        "strings beside it": codec.encode_tensors({"x": x_of(), "y": y_of()}, {"made_by": "a tool"}),
        "no source": b"",
        "another batch": codec.encode(Batch(x_of()[:1], y_of()[:1])),
    }[change]
    assert source != expected
    assert codec.encode(batch, source=source) == expected


def test_encode_x_is_what_prediction_takes() -> None:
    assert torch.equal(codec.decode_x(codec.SAFETENSORS, codec.encode_x(x_of()), SPEC, max_samples=3), x_of())


def test_encoded_tensors_are_plain_safetensors() -> None:
    weights = {
        "layer.weight": torch.randn(3, 5),
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(3),
        "none": torch.empty(0, 4),
    }
    payload = codec.encode_tensors(weights, {"step": "7", "recipe": "{}"})
    for read in (reference_load(payload), codec.decode_tensors(payload)[0]):
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())
    assert codec.decode_tensors(payload)[1] == {"step": "7", "recipe": "{}"}


def test_encoding_is_deterministic_and_takes_shared_memory() -> None:
    weight = torch.randn(2, 2)
    first = codec.encode_tensors({"a": weight, "b": weight.t()}, {"p": "1", "q": "2"})
    assert first == codec.encode_tensors({"b": weight.t(), "a": weight}, {"q": "2", "p": "1"})
    assert torch.equal(codec.decode_tensors(first)[0]["b"], weight.t())


def test_every_tensor_is_aligned_for_readers_that_map_the_file() -> None:
    tensors = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(3), "c": torch.ones(1, dtype=torch.int64)}
    payload = codec.encode_tensors(tensors, {"odd": "length"})
    (length,) = struct.unpack_from("<Q", payload)
    header = json.loads(payload[8 : 8 + length])
    for name, tensor in tensors.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.itemsize == 0


@pytest.mark.parametrize(
    ("dtype", "shape", "code"), [("F8_E8M0", [0], "wrong_dtype"), ("F32", [0, 2**63], "wrong_shape")]
)
def test_tensors_that_torch_cannot_hold_are_refused(dtype: str, shape: list[int], code: str) -> None:
    with pytest.raises(InvalidBatch) as caught:
        codec.decode_tensors(raw_body({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}}))
    assert caught.value.code == code


def flipped(body: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(body: bytes, rng: random.Random) -> bytes:
    return body[: rng.randrange(len(body))]


def spliced(body: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(body)) for _ in range(2))
    return body[:start] + rng.randbytes(rng.randrange(9)) + body[end:]


@pytest.mark.parametrize("damage", [flipped, cut, spliced])
@pytest.mark.parametrize("content_type", codec.MEDIA_TYPES)
def test_damaged_bodies_decode_to_something_valid_or_are_refused(
    content_type: str, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    batch = Batch(x_of(), y_of(), ("a", "b", "c"))
    whole = good(ids=["a", "b", "c"]) if content_type == codec.JSON else codec.encode(batch)
    for seed in range(300):
        body = damage(whole, random.Random(seed))
        try:
            read = decode(content_type, body)
        except InvalidBatch:
            continue
        assert read.x.shape == (len(read), 2, 3)
        assert read.x.isfinite().all()
        assert 0 <= read.x.float().min() <= read.x.float().max() <= (255 if read.x.dtype == torch.uint8 else 1)
        assert 0 <= read.y.min() <= read.y.max() < 4
        assert read.ids is None or len(set(read.ids)) == len(read)
