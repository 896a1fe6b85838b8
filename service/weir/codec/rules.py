"""What a batch must keep to, whatever format it came in; every breach is an InvalidBatch that names its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from weir.errors import InvalidBatch
from weir.types import Bound, InputSpec

MAX_ID_LENGTH = 128
_MOST_DIMENSIONS = 8
_DIGITS_PEAK = 16  # the brightest pixel of 0..16 data; a value above it, where 1 is the bound, looks like 0..255 data


def sample_shape(shape: Sequence[int], spec: InputSpec, max_samples: int) -> tuple[int, ...]:
    """The shape (n, *spec.shape) of samples that came in ``shape``, whole or in flat rows."""
    flat = math.prod(spec.shape)
    if shape and shape[0] == 0:
        raise InvalidBatch("x", "0 samples", "at least one sample", code="empty")
    if not shape or tuple(shape[1:]) not in (spec.shape, (flat,)):
        expected = f"[{', '.join(map(str, ('n', *spec.shape)))}]" + (f" or [n, {flat}]" if len(spec.shape) > 1 else "")
        raise InvalidBatch("x", brackets(shape), expected, code="wrong_shape")
    if shape[0] > max_samples:
        raise InvalidBatch("x", f"{shape[0]} samples", f"at most {max_samples} in a batch", code="too_many_samples")
    return (shape[0], *spec.shape)


def check_values(x: Tensor, spec: InputSpec) -> None:
    """Every value is finite and within the bounds, compared in the precision of ``x``."""
    low, high = (value.item() for value in torch.aminmax(x))
    if not (math.isfinite(low) and math.isfinite(high)):
        at, seen = _first(x, ~x.isfinite())
        raise InvalidBatch(f"x[{at}]", seen, "finite numbers", code="not_finite")
    (floor, highest_floor), (ceiling, lowest_ceiling) = _floor(spec.low, x.dtype), _ceiling(spec.high, x.dtype)
    if low >= highest_floor and high <= lowest_ceiling:
        return
    scale = 255 if x.dtype == torch.uint8 else 1
    flat = x.flatten(1)
    bad = (flat < floor) | (flat > ceiling)
    if not bool(bad.any()):  # each feature keeps to bounds of its own
        return
    at, seen = _first(x, bad)
    feature = int(bad[at].nonzero()[0, 0])
    lowest, highest = (float(bound[feature % len(bound)]) / scale for bound in (floor, ceiling))
    place = f"feature {feature}" if len(spec.shape) == 1 else "values"
    expected = f"{place} from {lowest:g} to {highest:g}"
    if x.dtype == torch.uint8:
        expected += ", where uint8 stands for value / 255"
    elif highest <= 1 and low >= 0 and _DIGITS_PEAK < high <= 255:
        expected += " (it looks like 0..255 data: send uint8, or divide by 255)"
    raise InvalidBatch(f"x[{at}]", seen, expected, code="out_of_bounds")


def check_labels(y: Sequence[int], classes: int) -> None:
    """Every label is one of the classes."""
    if min(y) >= 0 and max(y) < classes:
        return
    at = next(at for at, label in enumerate(y) if not 0 <= label < classes)
    raise InvalidBatch(f"y[{at}]", short(y[at]), f"a label from 0 to {classes - 1}", code="label_out_of_range")


def check_ids(ids: object, samples: int) -> tuple[str, ...]:
    """One id per sample: a string of 1 to 128 printable characters, unique in the batch."""
    if not isinstance(ids, list):
        raise InvalidBatch("ids", short(ids), "a list of strings", code="invalid_ids")
    if len(ids) != samples:
        raise InvalidBatch("ids", f"{len(ids)} ids", f"{samples} ids, one per sample", code="length_mismatch")
    known: dict[str, None] = {}
    for at, name in enumerate(ids):
        if not (isinstance(name, str) and 1 <= len(name) <= MAX_ID_LENGTH and name.isprintable()):
            expected = f"a string of 1 to {MAX_ID_LENGTH} printable characters"
            raise InvalidBatch(f"ids[{at}]", short(name), expected, code="invalid_ids")
        if name in known:
            raise InvalidBatch(f"ids[{at}]", short(name), "ids unique in the batch", code="duplicate_ids")
        known[name] = None
    return tuple(known)


def brackets(shape: Sequence[int]) -> str:
    """A shape for an error message, bounded."""
    return str(list(shape)) if len(shape) <= _MOST_DIMENSIONS else f"{len(shape)} dimensions"


def short(value: object) -> str:
    """A value for an error message, bounded: never the whole of a large body."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    return repr(value[:80]) if isinstance(value, str) else repr(value)


@lru_cache(maxsize=16)  # the same few for every batch, and making them takes as long as checking a small one
def _floor(bound: Bound, dtype: torch.dtype) -> tuple[Tensor, float]:
    """The lower bounds of the features, and the highest of them: what is not below that is below none."""
    floor = _bound(bound, -math.inf, dtype)
    return floor, float(floor.max())


@lru_cache(maxsize=16)
def _ceiling(bound: Bound, dtype: torch.dtype) -> tuple[Tensor, float]:
    """The upper bounds of the features, and the lowest of them."""
    ceiling = _bound(bound, math.inf, dtype)
    return ceiling, float(ceiling.min())


def _bound(bound: Bound, unbounded: float, dtype: torch.dtype) -> Tensor:
    """The bound or bounds of the features as x's own numbers hold them: float32(0.1) is above 0.1 and still within."""
    values = torch.tensor([unbounded] if bound is None else bound if isinstance(bound, tuple) else [bound])
    return values * 255 if dtype == torch.uint8 else values.to(dtype)


def _first(x: Tensor, bad: Tensor) -> tuple[int, str]:
    """The first sample with a bad value, and that value."""
    at = int(bad.flatten().nonzero()[0, 0])
    return at // (x.numel() // len(x)), f"{x.flatten()[at].item():g}"
