"""From x as it is sent to x as the model sees it."""

from __future__ import annotations

import torch
from torch import Tensor

from weir.types import Bound, InputSpec


class Preparation:
    """Moves samples to a device, scales uint8 to [0, 1] and standardises what has a centre and a scale.

    ``low`` and ``high`` are the data bounds in prepared units, shaped like one sample; None where there are none.
    """

    def __init__(self, inputs: InputSpec, device: torch.device) -> None:
        self._shape = inputs.shape
        self._device = device
        self._center = self._feature_wise(inputs.center)
        self._scale = self._feature_wise(inputs.scale)
        self.low = self._bound(inputs.low)
        self.high = self._bound(inputs.high)

    def __call__(self, x: Tensor) -> Tensor:
        """Prepare (n, …) uint8 or float: (n, *shape) float32 on the device, in one layout.

        Of another layout in memory a convolution adds in another order, and the same samples would give other bits.
        """
        flat = x.to(self._device, non_blocking=True).contiguous().view(-1)  # strides of one channel are ambiguous else
        flat = flat.to(torch.float32).div_(255.0) if flat.dtype == torch.uint8 else flat.to(torch.float32)
        return self._standardised(flat.view(len(x), *self._shape))

    def _standardised(self, x: Tensor) -> Tensor:
        if self._center is not None:
            x = x - self._center
        return x if self._scale is None else x / self._scale

    def _bound(self, bound: Bound) -> Tensor | None:
        values = torch.full(self._shape, bound, device=self._device) if isinstance(bound, float | int) else None
        values = self._feature_wise(bound) if isinstance(bound, tuple) else values
        return None if values is None else self._standardised(values)

    def _feature_wise(self, values: tuple[float, ...] | None) -> Tensor | None:
        return None if values is None else torch.tensor(values, device=self._device).reshape(self._shape)
