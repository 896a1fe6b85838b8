"""What is kept is what was made, and a changed file is another file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from weir import datasets
from weir.bench.cache import decoded
from weir.datasets import Dataset


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.npz"
    np.savez(path, x=np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2), y=np.array([0, 1, 2]))
    return path


def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def load(path: Path) -> Dataset:
        seen.append(path)
        return datasets.npz(path)

    monkeypatch.setattr(datasets, "load", load)
    return seen


def test_a_file_is_decoded_once_and_read_back_bit_for_bit(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = loads(monkeypatch)
    first, second = (decoded(file, tmp_path / "kept") for _ in range(2))
    assert seen == [file]
    assert torch.equal(first.x, second.x)
    assert second.x.dtype == torch.uint8
    assert torch.equal(first.y, second.y)
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".npz"]


def test_a_file_that_changed_is_decoded_anew(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = loads(monkeypatch)
    decoded(file, tmp_path / "kept")
    os.utime(file, ns=(1, 1))
    decoded(file, tmp_path / "kept")
    assert seen == [file, file]


def test_without_a_folder_nothing_is_kept(file: Path, tmp_path: Path) -> None:
    decoded(file, None)
    assert list(tmp_path.iterdir()) == [file]
