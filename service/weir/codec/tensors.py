"""The safetensors format: named tensors and strings beside them, as bytes without code inside."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from torch import Tensor

from weir.codec.rules import brackets
from weir.errors import InvalidBatch

_MAX_HEADER = 100_000_000  # the format's own bound, in bytes
_DTYPES = {
    "U8": torch.uint8,
    "F16": torch.float16,
    "F32": torch.float32,
    "I64": torch.int64,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, source: bytes = b"") -> bytes:
    """Tensors by name, and strings beside them, as safetensors; equal input gives equal bytes.

    Tensors that share memory are written once each. The format's own writer refuses those and
    shuffles the metadata. ``source`` is what the tensors were decoded from: these bytes are not made anew if it has
    them already.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    if len(source) == len(head) + end and source.startswith(head):
        return source
    return b"".join((head, *(_bytes(tensor) for _, tensor in ordered)))


def decode_tensors(payload: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and the metadata of a safetensors body, in memory of their own; raises InvalidBatch."""
    parts, metadata = parse(payload)
    return {name: as_tensor(name, part) for name, part in parts.items()}, metadata


def parse(body: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The ``dtype``, ``shape`` and ``data`` of each tensor, copied once, and the metadata; raises InvalidBatch."""
    try:
        parts = dict(deserialize(body))  # type: ignore[no-untyped-call]
        header = json.loads(_header(body))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _not_safetensors(body, error) from None
    return parts, header.get("__metadata__") or {}


def as_tensor(name: str, part: Mapping[str, Any]) -> Tensor:
    """One parsed tensor, over the bytes that it was parsed from; raises InvalidBatch."""
    dtype, shape = _DTYPES.get(part["dtype"]), part["shape"]
    if dtype is None:
        raise InvalidBatch(name, part["dtype"], f"one of {', '.join(_DTYPES)}", code="wrong_dtype")
    try:
        flat = torch.frombuffer(part["data"], dtype=dtype) if part["data"] else torch.empty(0, dtype=dtype)
        return flat if shape == list(flat.shape) else flat.reshape(shape)
    except (RuntimeError, TypeError):  # an empty tensor whose other dimensions overflow
        raise InvalidBatch(name, brackets(shape), "a shape that fits in memory", code="wrong_shape") from None


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: memoryview = flat.view(torch.uint8).numpy().data
    return data


def _header(body: bytes) -> bytes:
    (length,) = struct.unpack_from("<Q", body)
    return body[8 : 8 + length]


def _not_safetensors(body: bytes, error: Exception) -> InvalidBatch:
    declared = _declared_size(body)
    if len(body) < declared:
        return InvalidBatch("body", f"{len(body)} bytes", f"at least {declared} bytes", code="truncated")
    return InvalidBatch("body", str(error)[:200], "a safetensors body", code="malformed_safetensors")


def _declared_size(body: bytes) -> int:
    """How many bytes a body that did not parse says it has, as far as it can be read."""
    try:
        size = 8 + int(struct.unpack_from("<Q", body)[0])
        if len(body) < size <= _MAX_HEADER and body[8:9] in (b"{", b""):
            return size
        parts = [part for name, part in json.loads(_header(body)).items() if name != "__metadata__"]
        return size + int(max(part["data_offsets"][1] for part in parts))
    except struct.error:
        return 8
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return 0
