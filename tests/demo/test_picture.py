"""The picture shows the run that it was drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tests.demo.conftest import UNARMED, Make

from weir.demo.picture import draw
from weir.demo.record import Record


def pixels(record: Record, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    draw(record, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def painted(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], colour: tuple[int, int, int]) -> int:
    """Pixels of nearly this colour: thin lines are blended with the white around them."""
    return int((np.abs(image.astype(int) - colour) < 60).all(axis=2).sum())


def test_all_three_models_and_both_hostile_phases_are_in_it(make: Make, tmp_path: Path) -> None:
    image = pixels(make(), tmp_path / "demo.png")
    pens_and_shades = [
        (0x9E, 0xC5, 0xFE),
        (0xCF, 0x22, 0x2E),
        (0x1A, 0x7F, 0x37),
        (0xFF, 0xF1, 0xE5),
        (0xFF, 0xCE, 0xCB),
    ]
    assert all(painted(image, colour) > 50 for colour in pens_and_shades)


def test_another_run_gives_another_picture_and_the_same_run_the_same(make: Make, tmp_path: Path) -> None:
    first, again = (pixels(make(), tmp_path / f"{n}.png") for n in range(2))
    other = pixels(make(unguarded=(0.8,) * 6), tmp_path / "other.png")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_guard_without_thresholds_leaves_its_panels_empty(make: Make, tmp_path: Path) -> None:
    seen, blind = pixels(make(), tmp_path / "seen.png"), pixels(make(guard=UNARMED), tmp_path / "blind.png")
    threshold = (0x82, 0x50, 0xDF)
    assert painted(blind, threshold) < painted(seen, threshold) / 2
