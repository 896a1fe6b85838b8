"""Bytes to Batch and back: JSON and safetensors, validated completely before anything is stored.

In a safetensors body ``ids`` travel as the metadata string ``ids``: a JSON list of n strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weir.codec import lists
from weir.codec.rules import brackets, check_ids, check_labels, check_values, sample_shape, short
from weir.codec.tensors import as_tensor, decode_tensors, encode_tensors, parse
from weir.errors import InvalidBatch, UnsupportedType
from weir.types import Batch, InputSpec

__all__ = [
    "JSON",
    "MEDIA_TYPES",
    "SAFETENSORS",
    "decode",
    "decode_tensors",
    "decode_x",
    "encode",
    "encode_tensors",
    "encode_x",
    "load",
    "load_kept",
    "without",
]

JSON = "application/json"
SAFETENSORS = "application/vnd.safetensors"
MEDIA_TYPES = (JSON, SAFETENSORS)
_X_DTYPES = ("U8", "F16", "F32")


def decode(content_type: str, body: bytes, spec: InputSpec, *, max_samples: int) -> Batch:
    """The batch in a request body; ``x`` is (n, *spec.shape) on the CPU, in memory of its own.

    Rows of ``x`` may also be flat: (n, prod(spec.shape)). JSON numbers become float32.
    Raises UnsupportedType, and InvalidBatch for everything else that is wrong, naming the place.
    """
    if _media_type(content_type) == JSON:
        fields = lists.fields_of(body, required=("x", "y"), optional=("ids",))
        x, y = lists.x_of(fields["x"], spec, max_samples, body), lists.y_of(fields["y"])
        ids = fields.get("ids")
    else:
        parts, metadata = parse(body)
        _names(parts, ("x", "y"))
        x, y = _safetensors_x(parts["x"], spec, max_samples), _safetensors_y(parts["y"])
        ids = _metadata_ids(metadata)
    if len(x) != len(y):
        raise InvalidBatch("y", f"{len(y)} labels", f"{len(x)} labels, one per sample of x", code="length_mismatch")
    check_values(x, spec)
    check_labels(y, spec.classes)
    return Batch(x, torch.tensor(y, dtype=torch.int64), None if ids is None else check_ids(ids, len(x)))


def decode_x(content_type: str, body: bytes, spec: InputSpec, *, max_samples: int) -> Tensor:
    """The samples in a body without labels: (n, *spec.shape), by the rules and with the errors of ``decode``."""
    if _media_type(content_type) == JSON:
        x = lists.x_of(lists.fields_of(body, required=("x",))["x"], spec, max_samples, body)
    else:
        parts, _ = parse(body)
        _names(parts, ("x",))
        x = _safetensors_x(parts["x"], spec, max_samples)
    check_values(x, spec)
    return x


def encode(batch: Batch, *, source: bytes = b"") -> bytes:
    """The batch as safetensors; equal batches give equal bytes, ``source`` itself if the batch came from just these."""
    metadata = {} if batch.ids is None else {"ids": json.dumps(batch.ids)}
    return encode_tensors({"x": batch.x, "y": batch.y}, metadata, source=source)


def encode_x(x: Tensor) -> bytes:
    """Samples without labels as safetensors: the body of a prediction request."""
    return encode_tensors({"x": x}, {})


def load(payload: bytes) -> Batch:
    """The batch in bytes that ``encode`` made; not validated against a spec."""
    return load_kept(payload)[0]


def without(payload: bytes, indices: Iterable[int]) -> bytes:
    """The same batch with these samples erased; the others keep their indices, which ``load_kept`` tells."""
    batch, kept = load_kept(payload)
    gone = set(indices)
    rows = [row for row, index in enumerate(kept) if index not in gone]
    ids = None if batch.ids is None else [batch.ids[row] for row in rows]
    metadata = {"kept": json.dumps([kept[row] for row in rows])} | ({} if ids is None else {"ids": json.dumps(ids)})
    return encode_tensors({"x": batch.x[rows], "y": batch.y[rows]}, metadata)


def load_kept(payload: bytes) -> tuple[Batch, Sequence[int]]:
    """The batch that is left after erasures, and the indices that its samples had when the batch came."""
    tensors, metadata = decode_tensors(payload)
    ids = tuple(json.loads(metadata["ids"])) if "ids" in metadata else None
    kept = json.loads(metadata["kept"]) if "kept" in metadata else range(len(tensors["y"]))
    return Batch(tensors["x"], tensors["y"], ids), kept


def _media_type(content_type: str) -> str:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise UnsupportedType(content_type, MEDIA_TYPES)
    return media_type


def _names(parts: Mapping[str, object], wanted: tuple[str, ...]) -> None:
    for name in parts:
        if name not in wanted:
            expected = f"only the tensors {', '.join(wanted)} (ids travel in the metadata, as a JSON list)"
            raise InvalidBatch("body", f"the tensor {name[:80]!r}", expected, code="unknown_tensor")
    for name in wanted:
        if name not in parts:
            raise InvalidBatch(name, "no such tensor", f"the tensors {', '.join(wanted)}", code="missing_tensor")


def _safetensors_x(part: Mapping[str, Any], spec: InputSpec, max_samples: int) -> Tensor:
    if part["dtype"] not in _X_DTYPES:
        raise InvalidBatch("x", part["dtype"], "uint8, float16 or float32 (U8, F16, F32)", code="wrong_dtype")
    shape = sample_shape(part["shape"], spec, max_samples)
    x = as_tensor("x", part)
    return x if x.shape == shape else x.reshape(shape)


def _safetensors_y(part: Mapping[str, Any]) -> list[int]:
    if part["dtype"] != "I64":
        raise InvalidBatch("y", part["dtype"], "int64 (I64)", code="wrong_dtype")
    if len(part["shape"]) != 1:
        raise InvalidBatch("y", brackets(part["shape"]), "[n]", code="wrong_shape")
    labels: list[int] = as_tensor("y", part).tolist()
    return labels


def _metadata_ids(metadata: Mapping[str, str]) -> object:
    if "ids" not in metadata:
        return None
    try:
        ids: object = json.loads(metadata["ids"])
    except (ValueError, RecursionError):
        raise InvalidBatch("ids", short(metadata["ids"]), "a JSON list of strings", code="invalid_ids") from None
    return ids
