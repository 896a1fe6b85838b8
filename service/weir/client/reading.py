"""The service's JSON as the client's values; an answer that is not the service's raises ServiceUnavailable."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar, cast

import httpx
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from weir.client.answers import Prediction
from weir.client.reviews import HeldDetail, HeldSample
from weir.codec import decode_tensors
from weir.errors import InvalidBatch, ServiceUnavailable

_SAMPLE_DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "float32": torch.float32}

_T = TypeVar("_T")


def read(kind: type[_T], response: httpx.Response) -> _T:
    """The answer's JSON as a value of ``kind``, without fields that it does not know; raises ServiceUnavailable."""
    try:
        value: _T = _adapter(cast(Any, kind)).validate_json(response.content)
    except ValidationError as error:
        raise _foreign(response, str(error)) from None
    return value


def read_page(kind: type[_T], response: httpx.Response) -> tuple[tuple[_T, ...], str | None]:
    """The items of a list, and the cursor of the next page; raises ServiceUnavailable."""
    page = read(_Page, response)
    try:
        return tuple(_adapter(cast(Any, kind)).validate_python(item) for item in page.items), page.next
    except ValidationError as error:
        raise _foreign(response, str(error)) from None


def read_prediction(response: httpx.Response) -> Prediction:
    """The rows of a prediction as tensors; raises ServiceUnavailable."""
    rows = read(_Rows, response)
    return Prediction(
        rows.step,
        torch.tensor(rows.classes, dtype=torch.int64),
        torch.tensor(rows.probabilities, dtype=torch.float32),
        torch.tensor(rows.logits, dtype=torch.float32),
        rows.staleness_seconds,
    )


def read_held(response: httpx.Response) -> HeldDetail:
    """A quarantined sample with its data; raises ServiceUnavailable."""
    sample, data = read(HeldSample, response), read(_Data, response)
    try:
        x = torch.tensor(data.x, dtype=_SAMPLE_DTYPES[data.dtype])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _foreign(response, repr(error)) from None
    return HeldDetail(**{field.name: getattr(sample, field.name) for field in fields(sample)}, x=x)


def read_weights(response: httpx.Response) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and their metadata; raises ServiceUnavailable."""
    try:
        return decode_tensors(response.content)
    except InvalidBatch as error:
        raise _foreign(response, str(error)) from None


@dataclass(frozen=True, slots=True)
class _Page:
    items: list[Any]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class _Data:
    dtype: str
    x: list[Any]


@dataclass(frozen=True, slots=True)
class _Rows:
    step: int
    classes: list[int]
    probabilities: list[list[float]]
    logits: list[list[float]]
    staleness_seconds: float = 0.0  # of a service that does not tell


@cache  # building one costs far more than using it
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _foreign(response: httpx.Response, why: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"{response.url} gave an answer that this client does not know: {why}")
