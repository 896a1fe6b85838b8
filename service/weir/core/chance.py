"""Randomness that comes from a seed and leaves no trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DRAWING = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """What is drawn inside, on the CPU and ``device``, comes from ``seed``; the running generators stay as they were.

    These belong to the whole process, so that of several threads one draws at a time: an engine that learns beside
    another would change what the other draws.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with _DRAWING, torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
