"""Pictures: drawn from rows, with a panel where there is something to see."""

from __future__ import annotations

from pathlib import Path

from weir.bench.harness import Cell, Harness
from weir.bench.plots import PICTURES, _has_a_right_neighbour
from weir.bench.terms import Terms


def test_every_picture_is_drawn_also_where_no_one_scores(harness: Harness, terms: Terms, tmp_path: Path) -> None:
    rows = [harness.run(Cell("accumulative", guard, 0, terms)) for guard in ("none", "weir")]
    for name, draw in PICTURES.items():
        for some in (rows, rows[:1]):
            draw(some, tmp_path / f"{name}{len(some)}.png")
    assert len(list(tmp_path.iterdir())) == 2 * len(PICTURES)


def test_a_label_is_written_to_the_left_where_another_follows() -> None:
    crowds = [((0.8, 10.9), "one"), ((1.0, 10.8), "beside it"), ((0.8, 3.0), "below"), ((2.0, 3.0), "far")]
    assert [_has_a_right_neighbour(at, crowds) for at, _ in crowds] == [True, False, False, False]
