"""Whatever holds numbers, as the tensors that a batch is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weir.errors import InvalidBatch

Numbers = Tensor | np.ndarray[Any, Any] | Sequence[Any]

_AS_THEY_ARE = (torch.uint8, torch.float16, torch.float32)


def samples_of(x: Numbers) -> Tensor:
    """uint8, float16 and float32 as they are, other numbers as float32; raises InvalidBatch."""
    tensor = _tensor("x", x)
    return tensor if tensor.dtype in _AS_THEY_ARE else tensor.to(torch.float32)


def labels_of(y: Numbers) -> Tensor:
    """Integers as int64; raises InvalidBatch for anything else."""
    tensor = _tensor("y", y)
    if tensor.is_floating_point():
        raise InvalidBatch("y", tensor.dtype, "integer labels", code="wrong_dtype")
    return tensor.to(torch.int64)


def _tensor(name: str, value: Numbers) -> Tensor:
    tensor = value.detach() if isinstance(value, Tensor) else _from_array(name, value)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise InvalidBatch(name, tensor.dtype, "numbers", code="wrong_dtype")
    return tensor


def _from_array(name: str, value: np.ndarray[Any, Any] | Sequence[Any]) -> Tensor:
    try:
        array = np.asarray(value)
        if array.dtype.kind == "f" and array.dtype.itemsize > 4:
            with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite by the service
                array = array.astype(np.float32)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except (ValueError, TypeError) as error:
        raise InvalidBatch(name, str(error), "numbers in rows of the same length", code="wrong_dtype") from None
