"""JSON bodies: nested lists of numbers as tensors, with the place of whatever is not a number."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import orjson
import torch
from torch import Tensor

from weir.codec.rules import sample_shape, short
from weir.errors import InvalidBatch
from weir.types import InputSpec


def fields_of(body: bytes, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a JSON object, all of the required ones and none that is not known; raises InvalidBatch."""
    fields = _parsed(body)
    known = (*required, *optional)
    expected = f"an object with {', '.join(required)}" + (f" and optionally {', '.join(optional)}" if optional else "")
    if not isinstance(fields, dict):
        raise InvalidBatch("body", short(fields), expected, code="malformed_json")
    for name in fields:
        if name not in known:
            raise InvalidBatch("body", f"the field {short(name)}", expected, code="unknown_field")
    for name in required:
        if name not in fields:
            raise InvalidBatch(name, "no such field", expected, code="missing_field")
    return fields


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass  # the standard parser reads NaN as well, so that its place is told, and says better what is wrong
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidBatch("body", str(error), "JSON in UTF-8", code="malformed_json") from None


def x_of(value: object, spec: InputSpec, max_samples: int, body: bytes) -> Tensor:
    """Nested lists of numbers, whole or in flat rows, as (n, *spec.shape) float32; raises InvalidBatch.

    ``body`` is the JSON that the value is from.
    """
    shape, numbers = _flatten(value, depth=len(spec.shape) + 2)
    whole = sample_shape(shape, spec, max_samples)
    # An array takes booleans as numbers. A text without these letters has none, which is sooner seen than each value.
    if (b"t" in body or b"f" in body) and bool in set(map(type, numbers)):
        raise _no_number(numbers, shape)
    try:
        flat = array("d", numbers)
    except TypeError:
        raise _no_number(numbers, shape) from None
    except OverflowError:  # an integer beyond float64: as infinite as 1e999
        flat = array("d", [number if abs(number) < 1e308 else math.inf for number in numbers])
    return torch.frombuffer(flat, dtype=torch.float64).to(torch.float32).reshape(whole)


def _no_number(numbers: Sequence[Any], shape: Sequence[int]) -> InvalidBatch:
    at = next(at for at, number in enumerate(numbers) if type(number) not in (int, float))
    return InvalidBatch(_place(at, shape), short(numbers[at]), "a number", code="wrong_dtype")


def y_of(value: object) -> list[int]:
    """A list of integer labels; raises InvalidBatch."""
    if not isinstance(value, list):
        raise InvalidBatch("y", short(value), "a list of labels", code="wrong_shape")
    for at, label in enumerate(value):
        if type(label) is not int:
            raise InvalidBatch(f"y[{at}]", short(label), "an integer label", code="wrong_dtype")
    return value


def _flatten(value: object, depth: int) -> tuple[list[int], list[Any]]:
    """Nested lists as their shape and their values, at most ``depth`` levels down; level by level, for speed."""
    if not isinstance(value, list):
        raise InvalidBatch("x", short(value), "a list of samples", code="wrong_shape")
    shape, level = [len(value)], value
    while level and isinstance(level[0], list) and len(shape) < depth:
        if set(map(type, level)) != {list}:
            at = next(at for at, item in enumerate(level) if not isinstance(item, list))
            raise InvalidBatch(_place(at, shape), short(level[at]), "a list like its neighbours", code="wrong_shape")
        lengths = Counter(map(len, level))
        ((usual, _),) = lengths.most_common(1)
        if len(lengths) > 1:
            at = next(at for at, item in enumerate(level) if len(item) != usual)
            seen, expected = f"{len(level[at])} values", f"{usual} values like its neighbours"
            raise InvalidBatch(_place(at, shape), seen, expected, code="wrong_shape")
        shape.append(usual)
        level = list(chain.from_iterable(level))
    return shape, level


def _place(at: int, shape: Sequence[int]) -> str:
    """A flat position as ``x[i][j]...``."""
    indices: list[int] = []
    for size in reversed(shape):
        at, index = divmod(at, size)
        indices.append(index)
    return "x" + "".join(f"[{index}]" for index in reversed(indices))
