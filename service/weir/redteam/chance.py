"""Randomness that depends on a seed and on what it is used for, and on nothing that ran before."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from weir.core.probe import content


def generator(seed: int, *tensors: Tensor) -> torch.Generator:
    """A generator for these tensors: equal seeds and equal contents give equal draws."""
    digest = hashlib.sha256(f"{seed}|".encode() + b"".join(content(tensor) for tensor in tensors)).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
