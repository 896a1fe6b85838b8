"""Files that spare a later run what an earlier one has made: decoded data sets and burned-in models."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weir import datasets
from weir.datasets import Dataset
from weir.types import State


def decoded(file: Path, cache: Path | None) -> Dataset:
    """All samples of a data file, from ``cache`` where they are there; else decoded, and put there.

    A file counts as the same while name, size and time of change are. Raises InvalidInput.
    """
    if cache is None:
        return datasets.load(file)
    kept = cache / f"{file.stem}-{_stamp(file)}.npz"
    if kept.exists():
        return datasets.npz(kept)
    found = datasets.load(file)
    _write(kept, {"x": found.x.numpy(), "y": found.y.numpy()})
    return found


def write_state(file: Path, state: State) -> None:
    """Keep a state."""
    values = np.frombuffer(json.dumps(state.values).encode(), dtype=np.uint8)
    _write(file, {"values": values} | {f"t/{name}": tensor.cpu().numpy() for name, tensor in state.tensors.items()})


def read_state(file: Path) -> State:
    """The state that was kept in a file."""
    with np.load(file, allow_pickle=False) as archive:
        tensors = {name[2:]: torch.from_numpy(archive[name]) for name in archive.files if name.startswith("t/")}
        return State(tensors, json.loads(archive["values"].tobytes()))


def digest(values: Any) -> str:
    """A short name for JSON-ready values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _stamp(file: Path) -> str:
    if not file.exists():
        return ""  # the loader says it better
    found = file.stat()
    return digest([file.name, found.st_size, found.st_mtime_ns])


def _write(file: Path, arrays: Mapping[str, Any]) -> None:
    """Whole or not at all: another run may read, or write, the same file at this moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as out:
        np.savez(out, **arrays)
    partial.replace(file)
