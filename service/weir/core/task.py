"""What a model's output means; softmax classes first, other tasks behind the same seam."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from weir.core import discrepancy


class Task(Protocol):
    """Everything the guard and the learner ask of an output; n samples in, n numbers out."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Loss per sample (n,), nats."""

    def residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Gradient of each sample's loss with respect to its output (n, outputs)."""

    def discrepancy(self, historical: Tensor, current: Tensor) -> Tensor:
        """Memorization discrepancy per sample (n,), nats."""

    def reverse(self, historical: Tensor, current: Tensor) -> Tensor:
        """The same divergence with its arguments exchanged (n,), nats."""

    def midpoint(self, historical: Tensor, current: Tensor) -> Tensor:
        """The symmetric, bounded divergence of both to their mean (n,), nats."""

    def correct(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Whether each prediction is right (n,) bool."""


class Classification:
    """Mutually exclusive classes: outputs are logits (n, classes), ``y`` is (n,) int64, the loss is cross-entropy."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy per sample (n,), nats."""
        return functional.cross_entropy(outputs, y, reduction="none")

    def residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        """softmax(outputs) − onehot(y), (n, classes)."""
        return outputs.softmax(1) - functional.one_hot(y, outputs.shape[1]).to(outputs.dtype)

    def discrepancy(self, historical: Tensor, current: Tensor) -> Tensor:
        """KL(historical ‖ current) per sample (n,), nats."""
        return discrepancy.kl(historical, current)

    def reverse(self, historical: Tensor, current: Tensor) -> Tensor:
        """KL(current ‖ historical) per sample (n,), nats."""
        return discrepancy.kl(current, historical)

    def midpoint(self, historical: Tensor, current: Tensor) -> Tensor:
        """Jensen–Shannon divergence per sample (n,), nats."""
        return discrepancy.jensen_shannon(historical, current)

    def correct(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Whether the largest logit is the label's (n,) bool."""
        return torch.eq(outputs.argmax(1), y)
