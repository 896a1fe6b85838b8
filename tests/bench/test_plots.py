"""Pictures: drawn from rows, with a panel where there is something to see."""

from __future__ import annotations

from pathlib import Path

from weir.bench.harness import Cell, Harness
from weir.bench.plots import PICTURES
from weir.bench.terms import Terms


def test_every_picture_is_drawn_also_where_no_one_scores(harness: Harness, terms: Terms, tmp_path: Path) -> None:
    rows = [harness.run(Cell("accumulative", guard, 0, terms)) for guard in ("none", "weir")]
    for name, draw in PICTURES.items():
        for some in (rows, rows[:1]):
            draw(some, tmp_path / f"{name}{len(some)}.png")
    assert len(list(tmp_path.iterdir())) == 2 * len(PICTURES)
