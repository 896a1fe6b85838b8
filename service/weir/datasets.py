"""Samples from files and from two small bundled data sets: whole, or as a stream of batches.

What is not needed by a service (pyarrow, pillow, scikit-learn) is imported when a data set asks for it.
"""

from __future__ import annotations

import importlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weir.errors import InvalidInput
from weir.types import Batch

_LABELS = ("label", "y")
_GREY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "CMYK", "YCbCr")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples in memory: ``x`` (n, *shape) uint8 or float32, ``y`` (n,) int64 labels from 0 to ``classes`` - 1."""

    x: Tensor
    y: Tensor
    classes: int
    name: str

    def __len__(self) -> int:
        return len(self.y)

    def select(self, indices: Tensor | Sequence[int]) -> Dataset:
        """The samples at ``indices``, in that order."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        return Dataset(self.x[at], self.y[at], self.classes, self.name)

    def split(self, *sizes: int, seed: int | None = None) -> tuple[Dataset, ...]:
        """Disjoint parts of the given sizes, from the front; shuffled first when there is a ``seed``.

        Raises InvalidInput when the sizes need more samples than there are.
        """
        if min(sizes, default=0) < 0 or sum(sizes) > len(self):
            raise InvalidInput("sizes", " + ".join(map(str, sizes)), f"sizes of at most {len(self)} together")
        order = torch.arange(len(self)) if seed is None else _permutation(len(self), seed)
        return tuple(self.select(part) for part in torch.split(order[: sum(sizes)], list(sizes)))


def digits() -> Dataset:
    """1,797 handwritten digits, 8x8 grey: ``x`` (n, 1, 8, 8) float32 in [0, 1], 10 classes.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, as bundled with scikit-learn.
    """
    images, labels = _library("sklearn.datasets").load_digits(return_X_y=True)
    return _dataset(torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(labels), "digits")


def breast_cancer() -> Dataset:
    """569 tumours in 30 measurements, malignant (0) or benign (1): ``x`` (n, 30) float32, not standardised.

    Source: Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic), UCI, 1995, as bundled with
    scikit-learn.
    """
    values, labels = _library("sklearn.datasets").load_breast_cancer(return_X_y=True)
    return _dataset(torch.from_numpy(values).float(), torch.from_numpy(labels), "breast_cancer")


def npz(path: Path | str) -> Dataset:
    """The arrays ``x`` and ``y`` of a NumPy archive; ``x`` stays uint8 or becomes float32. Raises InvalidInput."""
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                raise InvalidInput(missing[0], f"only {', '.join(archive.files) or 'nothing'}", "the arrays x and y")
            x, y = archive["x"], archive["y"]
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInput(str(path), str(error), "a NumPy archive of plain arrays x and y") from None
    if y.dtype.kind not in "iu":
        raise InvalidInput("y", str(y.dtype), "integer labels")
    if x.dtype.kind not in "iuf":
        raise InvalidInput("x", str(x.dtype), "numbers")
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite
            x = x.astype(np.float32)
    return _dataset(torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)), str(path))


def parquet(path: Path | str, limit: int | None = None) -> Dataset:
    """The first ``limit`` rows of a Parquet file, or all.

    Two layouts: a struct column with ``bytes`` (JPEG or PNG files) and an integer column become ``x`` (n, channels,
    height, width) uint8; numeric columns and an integer column ``label`` or ``y`` become ``x`` (n, features) float32,
    features in file order. ``classes`` counts the labels of the whole file. Raises InvalidInput.
    """
    parts = list(_parquet_batches(path, 4096, limit))
    if not parts:
        raise InvalidInput(str(path), "no rows", "at least one row")
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    return Dataset(x, y, _parquet_classes(path), str(path))


def is_bundled(source: Path | str) -> bool:
    """Whether this names a data set that comes with Weir."""
    return str(source) in _BUNDLED


def load(source: Path | str, limit: int | None = None) -> Dataset:
    """The first ``limit`` samples, or all, of a bundled data set by name or a ``.parquet`` or ``.npz`` file.

    Raises InvalidInput for a name that is neither.
    """
    if str(source) in _BUNDLED:
        return _head(_BUNDLED[str(source)](), limit)
    match Path(source).suffix:
        case ".parquet":
            return parquet(source, limit)
        case ".npz":
            return _head(npz(source), limit)
    raise InvalidInput("data", str(source), f"{', '.join(_BUNDLED)}, or a .parquet or .npz file")


def rows(source: Path | str) -> int:
    """How many samples ``load`` gives without a limit; reads only the footer of a Parquet file. Raises InvalidInput."""
    if str(source) not in _BUNDLED and Path(source).suffix == ".parquet":
        return int(_parquet_file(source).metadata.num_rows)
    return len(load(source))


def batches(source: Path | str, size: int, limit: int | None = None) -> Iterator[Batch]:
    """The samples of ``load``, in order, in batches of up to ``size``; a Parquet file is never whole in memory."""
    if size < 1:
        raise InvalidInput("size", size, "at least 1")
    if str(source) not in _BUNDLED and Path(source).suffix == ".parquet":
        return _parquet_batches(source, size, limit)
    data = load(source, limit)
    return (Batch(x, y) for x, y in zip(torch.split(data.x, size), torch.split(data.y, size), strict=True))


def stratified(y: Tensor, size: int, seed: int, *, minimum: int = 1) -> Tensor:
    """Indices (size,), ascending, of a random selection: each class's share of ``y``, but at least ``minimum`` of it.

    Raises InvalidInput when a class has too few samples, or ``size`` is too small or too large.
    """
    classes, members = torch.unique(y, return_counts=True)
    if int(members.min()) < minimum:
        short = int(members.argmin())
        expected = f"at least {minimum} samples of each class"
        raise InvalidInput("y", f"{int(members[short])} of class {int(classes[short])}", expected)
    if not minimum * len(classes) <= size <= len(y):
        expected = f"from {minimum * len(classes)} ({minimum} of each class) to {len(y)}"
        raise InvalidInput("size", size, expected)
    takes = _shares(members.tolist(), size, minimum)
    shuffled = _permutation(len(y), seed)
    chosen = [shuffled[y[shuffled] == label][:take] for label, take in zip(classes, takes, strict=True)]
    return torch.cat(chosen).sort().values


_BUNDLED: dict[str, Callable[[], Dataset]] = {"digits": digits, "breast_cancer": breast_cancer}


def _shares(members: list[int], size: int, minimum: int) -> list[int]:
    """``size`` places among classes of ``members`` samples: the minimum for each, then to whoever lacks most."""
    takes = [minimum] * len(members)
    wanted = [size * count / sum(members) for count in members]
    for _ in range(size - sum(takes)):
        takes[max(range(len(takes)), key=lambda at: wanted[at] - takes[at])] += 1
    return takes


def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _head(data: Dataset, limit: int | None) -> Dataset:
    return data if limit is None else Dataset(data.x[:limit], data.y[:limit], data.classes, data.name)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InvalidInput(module.partition(".")[0], "not installed", "the library: pip install weir[data]") from None


def _dataset(x: Tensor, y: Tensor, name: str) -> Dataset:
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or len(y) == 0:
        seen = f"x {list(x.shape)} and y {list(y.shape)}"
        raise InvalidInput(name, seen, "x [n, ...] and y [n] with n of at least 1")
    _check(x, y, row=0)
    return Dataset(x, y.to(torch.int64), int(y.max()) + 1, name)


def _check(x: Tensor, y: Tensor, row: int) -> None:
    if not x.isfinite().all():
        at = int((~x.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise InvalidInput(f"x[{row + at}]", "NaN or infinity", "finite numbers (float32)")
    if int(y.min()) < 0:
        at = int((y < 0).nonzero()[0])
        raise InvalidInput(f"y[{row + at}]", int(y[at]), "labels from 0")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which columns of a Parquet file hold what: an ``image`` column, or the ``features``."""

    label: str
    image: str | None
    features: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        return [self.label, *(self.features if self.image is None else [f"{self.image}.bytes"])]


def _parquet_file(path: Path | str) -> Any:
    arrow = _library("pyarrow")
    try:
        return _library("pyarrow.parquet").ParquetFile(path)
    except (OSError, arrow.ArrowException) as error:
        raise InvalidInput(str(path), str(error), "a Parquet file") from None


def _layout(file: Any, path: Path | str) -> _Layout:
    kinds = _library("pyarrow.types")
    schema = file.schema_arrow
    integers = [field.name for field in schema if kinds.is_integer(field.type)]
    images = [
        field.name for field in schema if kinds.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    named = [name for name in integers if name in _LABELS]
    labels = named or (integers if images else [])
    if len(labels) != 1 or len(images) > 1 or len(schema.names) < 2:
        expected = "one integer column with the labels (named label or y unless it is the only one beside an image)"
        raise InvalidInput(str(path), f"the columns {', '.join(schema.names)}", expected)
    features = tuple(name for name in schema.names if name != labels[0])
    for name in () if images else features:
        kind = schema.field(name).type
        if not (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)):
            raise InvalidInput(name, str(kind), "a numeric column, or a struct with the bytes of an image")
    return _Layout(labels[0], images[0] if images else None, features)


def _parquet_classes(path: Path | str) -> int:
    file = _parquet_file(path)
    label = _layout(file, path).label
    return max(int(_labels(part, label, row=0).max()) for part in _rows(file, path, 65536, [label])) + 1


def _parquet_batches(path: Path | str, size: int, limit: int | None) -> Iterator[Batch]:
    file = _parquet_file(path)
    layout = _layout(file, path)
    row, shape, end = 0, None, file.metadata.num_rows if limit is None else limit
    for part in _rows(file, path, size, layout.columns):
        rows = part.slice(0, end - row)
        if len(rows) == 0:
            return
        x, y = _samples(rows, layout, row, shape), _labels(rows, layout.label, row)
        _check(x, y, row)
        yield Batch(x, y)
        row, shape = row + len(rows), tuple(x.shape[1:])


def _rows(file: Any, path: Path | str, size: int, columns: list[str]) -> Iterator[Any]:
    try:
        yield from file.iter_batches(size, columns=columns)
    except (OSError, _library("pyarrow").ArrowException) as error:
        raise InvalidInput(str(path), str(error), "an undamaged Parquet file") from None


def _labels(part: Any, column: str, row: int) -> Tensor:
    return torch.from_numpy(_full(part, column, row).cast("int64").to_numpy(zero_copy_only=False).copy())


def _full(part: Any, column: str, row: int) -> Any:
    values = part.column(column)
    if values.null_count:
        at = next(at for at, valid in enumerate(values.is_valid().to_pylist()) if not valid)
        raise InvalidInput(f"{column}[{row + at}]", "null", "a value in every row")
    return values


def _samples(part: Any, layout: _Layout, row: int, shape: tuple[int, ...] | None) -> Tensor:
    if layout.image is not None:
        return _pixels(part.column(layout.image).field("bytes").to_pylist(), layout.image, row, shape)
    columns = [_full(part, name, row).cast("float32", safe=False) for name in layout.features]
    return torch.from_numpy(np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1))


def _pixels(files: list[bytes | None], column: str, row: int, shape: tuple[int, ...] | None) -> Tensor:
    """Decoded image files as (n, channels, height, width) uint8, all of the first one's ``shape``."""
    images = []
    for at, file in enumerate(files):
        pixels = _decode(file, f"{column}[{row + at}]")
        shape = shape or pixels.shape
        if pixels.shape == (1, *shape[1:]):
            pixels = np.broadcast_to(pixels, shape)  # a grey image among coloured ones
        if pixels.shape != shape:
            expected = f"(channels, height, width) {shape}, as in row 0"
            raise InvalidInput(f"{column}[{row + at}]", str(pixels.shape), expected)
        images.append(pixels)
    return torch.from_numpy(np.stack(images))


def _decode(file: bytes | None, place: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pillow = _library("PIL.Image")
    if file is None:
        raise InvalidInput(place, "no bytes", "the bytes of a JPEG or PNG file in every row")
    try:
        with pillow.open(io.BytesIO(file), formats=("JPEG", "PNG")) as image:
            if image.mode not in _GREY + _COLOUR:
                raise InvalidInput(place, f"mode {image.mode}", "an image of 8 bits per channel")
            pixels = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise InvalidInput(place, str(error), "a JPEG or PNG file") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
