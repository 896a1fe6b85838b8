"""Loaders against small files written here, and selections against what they promise."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from weir import datasets
from weir.datasets import Dataset
from weir.errors import InvalidInput


def image_file(pixels: np.ndarray[Any, Any], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def colour(seed: int, side: int = 4) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write(path: Path, row_group_size: int = 2, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def images(*files: bytes | None) -> list[dict[str, object]]:
    return [{"bytes": file, "path": None} for file in files]


def refusal(path: Path) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        datasets.load(path)
    return caught.value


def toy(samples: int = 10) -> Dataset:
    return Dataset(torch.arange(samples).float()[:, None], torch.arange(samples) % 3, 3, "toy")


def test_digits_are_scaled_images() -> None:
    data = datasets.digits()
    assert data.x.shape == (1797, 1, 8, 8)
    assert data.x.dtype == torch.float32
    assert (data.x.min().item(), data.x.max().item()) == (0, 1)
    assert data.y.dtype == torch.int64
    assert data.classes == len(set(data.y.tolist())) == 10


def test_breast_cancer_is_raw() -> None:
    data = datasets.breast_cancer()
    assert data.x.shape == (569, 30)
    assert data.classes == 2
    assert data.x.max() > 4000


def test_select_keeps_order() -> None:
    assert toy().select([3, 1]).x.flatten().tolist() == [3, 1]


def test_split_takes_from_the_front_in_file_order() -> None:
    first, second = toy().split(4, 3)
    assert first.x.flatten().tolist() == [0, 1, 2, 3]
    assert second.x.flatten().tolist() == [4, 5, 6]
    assert second.y.tolist() == [1, 2, 0]


def test_split_with_a_seed_is_shuffled_disjoint_and_repeatable() -> None:
    first, second = toy(50).split(20, 30, seed=1)
    joined = torch.cat([first.x, second.x]).flatten()
    assert joined.tolist() != sorted(joined.tolist())
    assert sorted(joined.tolist()) == list(range(50))
    assert torch.equal(toy(50).split(20, seed=1)[0].x, first.x)
    assert not torch.equal(toy(50).split(20, seed=2)[0].x, first.x)


def test_split_refuses_more_than_there_is() -> None:
    with pytest.raises(InvalidInput, match=r"6 \+ 5"):
        toy().split(6, 5)


def test_stratified_keeps_shares_and_the_minimum() -> None:
    y = torch.tensor([0] * 90 + [1] * 9 + [2] * 3)
    chosen = datasets.stratified(y, 35, seed=0, minimum=2)
    assert len(set(chosen.tolist())) == 35
    assert y[chosen].bincount().tolist() == [30, 3, 2]
    assert torch.equal(chosen, datasets.stratified(y, 35, seed=0, minimum=2))
    assert not torch.equal(chosen, datasets.stratified(y, 35, seed=1, minimum=2))


def test_stratified_can_take_everything() -> None:
    y = torch.tensor([2, 0, 2, 2, 0])
    assert datasets.stratified(y, 5, seed=0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("size", "minimum", "field"), [(3, 2, "size"), (9, 1, "size"), (6, 4, "y")])
def test_stratified_refuses_what_cannot_be(size: int, minimum: int, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        datasets.stratified(torch.tensor([0, 0, 0, 0, 1, 1, 1]), size, seed=0, minimum=minimum)
    assert caught.value.field == field


def test_parquet_images_become_uint8_channels_first(tmp_path: Path) -> None:
    pixels = [colour(seed) for seed in range(5)]
    files = images(*(image_file(item) for item in pixels))
    path = write(tmp_path / "a.parquet", picture=files, kind=[4, 0, 1, 0, 2], note=list("abcde"))
    data = datasets.parquet(path)
    assert data.x.dtype == torch.uint8
    assert torch.equal(data.x, torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
    assert (data.y.tolist(), data.classes) == ([4, 0, 1, 0, 2], 5)


def test_jpeg_and_grey_images_decode(tmp_path: Path) -> None:
    grey = np.full((6, 5), 200, dtype=np.uint8)
    path = write(tmp_path / "a.parquet", img=images(image_file(grey, "JPEG"), image_file(grey)), label=[0, 1])
    data = datasets.load(path)
    assert data.x.shape == (2, 1, 6, 5)
    assert (data.x.float() - 200).abs().max() <= 2


def test_a_grey_image_among_coloured_ones_is_coloured(tmp_path: Path) -> None:
    grey = np.full((4, 4), 9, dtype=np.uint8)
    path = write(tmp_path / "a.parquet", img=images(image_file(colour(0)), image_file(grey)), label=[0, 1])
    assert torch.equal(datasets.parquet(path).x[1], torch.full((3, 4, 4), 9, dtype=torch.uint8))


def test_limit_reads_the_front_and_counts_all_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", a=[0.0, 1.0, 2.0, 3.0], label=[0, 1, 0, 7])
    data = datasets.load(path, limit=3)
    assert data.x.flatten().tolist() == [0, 1, 2]
    assert data.classes == 8


def test_numeric_columns_become_float32_in_file_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", b=[1, 2], y=[1, 0], a=[0.5, 0.25], c=[True, False])
    data = datasets.load(path)
    assert data.x.dtype == torch.float32
    assert data.x.tolist() == [[1, 0.5, 1], [2, 0.25, 0]]
    assert data.y.tolist() == [1, 0]


def test_batches_stream_what_load_gives(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row_group_size=4, a=[float(i) for i in range(11)], label=[0, 1] * 5 + [1])
    parts = list(datasets.batches(path, 3))
    assert max(map(len, parts)) == 3
    data = datasets.load(path)
    assert torch.equal(torch.cat([part.x for part in parts]), data.x)
    assert torch.equal(torch.cat([part.y for part in parts]), data.y)
    assert sum(map(len, datasets.batches(path, 3, limit=7))) == 7


def test_batches_decode_no_further_than_asked(tmp_path: Path) -> None:
    files = images(image_file(colour(0)), image_file(colour(1)), b"broken")
    stream = datasets.batches(write(tmp_path / "a.parquet", img=files, label=[0, 1, 0]), 1)
    assert [len(next(stream)), len(next(stream))] == [1, 1]
    with pytest.raises(InvalidInput) as caught:
        next(stream)
    assert caught.value.field == "img[2]"


def test_rows_are_counted_without_reading_them(tmp_path: Path) -> None:
    broken = images(b"broken", b"broken", b"broken")
    assert datasets.rows(write(tmp_path / "a.parquet", img=broken, label=[0, 1, 0])) == 3
    assert datasets.rows("digits") == 1797


def test_batches_of_a_bundled_set() -> None:
    assert [len(part) for part in datasets.batches("digits", 40, limit=100)] == [40, 40, 20]


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"a": [1.0], "b": [2.0]}, None),
        ({"a": [1], "b": [2]}, None),
        ({"label": [1]}, None),
        ({"label": [1], "y": [2], "a": [0.5]}, None),
        ({"label": [0], "a": ["text"]}, "a"),
        ({"label": [0, None], "a": [1.0, 2.0]}, "label[1]"),
        ({"label": [0, 1], "a": [1.0, None]}, "a[1]"),
        ({"label": [0, 1, 0, 0], "a": [1.0, 2.0, 3.0, float("nan")]}, "x[3]"),
        ({"label": [0, 1], "a": [1.0, 1e300]}, "x[1]"),
        ({"label": [0, 1, -4], "a": [1.0, 2.0, 3.0]}, "y[2]"),
        ({"label": [0, 1], "img": images(image_file(colour(0)), None)}, "img[1]"),
        ({"label": [0, 1], "img": images(image_file(colour(0)), image_file(colour(0, side=5)))}, "img[1]"),
        ({"label": [0], "img": images(image_file(colour(0), "GIF"))}, "img[0]"),
        ({"label": [0], "img": images(image_file(np.zeros((4, 4), dtype=np.uint16)))}, "img[0]"),
        ({"label": [0], "img": images(image_file(colour(0))[:60])}, "img[0]"),
    ],
)
def test_parquet_that_does_not_fit_is_refused(tmp_path: Path, columns: dict[str, Any], field: str | None) -> None:
    path = write(tmp_path / "a.parquet", **columns)
    assert refusal(path).field == (field or str(path))


def test_empty_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.parquet", label=pa.array([], pa.int64()), a=pa.array([], pa.float32()))
    assert refusal(empty).seen == "no rows"
    foreign = tmp_path / "a.parquet"
    foreign.write_bytes(b"not a table")
    assert refusal(foreign).expected == "a Parquet file"
    for path in (tmp_path / "none.parquet", tmp_path / "none.npz", tmp_path / "a.csv"):
        assert refusal(path).code == "invalid_input"


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", a=[float(i) for i in range(200)], label=[0] * 200)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    assert "Parquet" in refusal(path).expected


@pytest.mark.parametrize(("given", "kept"), [("uint8", torch.uint8), (">f8", torch.float32), ("int16", torch.float32)])
def test_npz_arrays(tmp_path: Path, given: str, kept: torch.dtype) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(6).reshape(3, 2).astype(given), y=np.array([0, 2, 1], dtype="uint8"))
    data = datasets.load(path)
    assert data.x.dtype == kept
    assert data.x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (data.y.tolist(), data.classes, data.name) == ([0, 2, 1], 3, str(path))
    assert len(datasets.load(path, limit=2)) == 2


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        ({"x": np.zeros((2, 2))}, "y"),
        ({"x": np.array([["a", 1]], dtype=object), "y": np.array([0])}, None),
        ({"x": np.array([["a"]]), "y": np.array([0])}, "x"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2)}, "y"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3, dtype=int)}, None),
        ({"x": np.zeros(2), "y": np.zeros(2, dtype=int)}, None),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, dtype=int)}, None),
        ({"x": np.array([[0.0], [1e300]]), "y": np.array([0, 1])}, "x[1]"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, -1])}, "y[1]"),
    ],
)
def test_npz_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, Any], field: str | None) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    assert refusal(path).field == (field or str(path))


def test_a_foreign_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for content in (b"", b"PK\x03\x04 but no archive", b"\x80\x04\x95 a pickle"):
        path.write_bytes(content)
        assert refusal(path).field == str(path)


def test_a_missing_library_names_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InvalidInput, match=r"pip install weir\[data\]") as caught:
        datasets.digits()
    assert caught.value.field == "sklearn"
