"""Memorization discrepancy: how far a model's output on a sample has moved since a historical snapshot."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def kl(historical: Tensor, current: Tensor) -> Tensor:
    """KL(p_historical ‖ p_current) per sample, from logits (n, classes) to (n,) nats, never below zero.

    d(x; t) = Σ_c p_hist,c · (log p_hist,c − log p_cur,c): the memorization discrepancy of Zhu et al.,
    "Exploring Model Dynamics for Accumulative Poisoning Discovery" (ICML 2023, arXiv 2306.03726).
    """
    log_historical, log_current = historical.log_softmax(1), current.log_softmax(1)
    return (log_historical.exp() * (log_historical - log_current)).sum(1).clamp_min(0.0)


def jensen_shannon(historical: Tensor, current: Tensor) -> Tensor:
    """Jensen–Shannon divergence per sample, from logits (n, classes) to (n,) nats in [0, log 2]."""
    log_historical, log_current = historical.log_softmax(1), current.log_softmax(1)
    change = log_current - log_historical
    # log(p / mean) = log 2 − softplus(log q − log p): exactly zero for equal outputs, as rounding would not leave it.
    log_two = functional.softplus(torch.zeros((), dtype=change.dtype, device=change.device))
    left = (log_historical.exp() * (log_two - functional.softplus(change))).sum(1)
    right = (log_current.exp() * (log_two - functional.softplus(-change))).sum(1)
    return (0.5 * (left + right)).clamp_min(0.0)
