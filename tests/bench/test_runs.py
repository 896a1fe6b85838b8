"""A file of rows: appended to, gone on with, whole whoever interrupts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from weir.bench import runs
from weir.bench.__main__ import app
from weir.bench.harness import Cell, Harness
from weir.bench.terms import Terms


def test_a_grid_goes_on_where_it_was_cut_off(harness: Harness, terms: Terms, tmp_path: Path) -> None:
    out = tmp_path / "rows" / "a.jsonl"
    cells = [Cell("clean", guard, 0, terms) for guard in ("none", "hold-all")]
    runs.run(cells[:1], out, harness)
    first = out.read_text()
    with out.open("a") as file:
        file.write('{"scenario": "cle')
    runs.run(cells, out, harness)
    assert out.read_text().startswith(first)
    assert [row["guard"] for row in runs.rows([out])] == ["none", "hold-all"]
    runs.run(cells, out, harness)
    assert len(list(runs.rows([out]))) == 2


def test_who_interrupts_finds_whole_rows(terms: Terms, tmp_path: Path) -> None:
    class Interrupted(Harness):
        def run(self, cell: Cell) -> dict[str, object]:
            if cell.guard == "hold-all":
                raise KeyboardInterrupt
            return super().run(cell)

    out = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        runs.run([Cell("clean", guard, 0, terms) for guard in ("none", "hold-all")], out, Interrupted())
    assert [row["guard"] for row in runs.rows([out])] == ["none"]
    assert out.read_text().endswith("}\n")


def test_progress_counts_what_was_done_before(harness: Harness, terms: Terms, tmp_path: Path) -> None:
    cells = [Cell("clean", guard, 0, terms) for guard in ("none", "hold-all")]
    runs.run(cells[:1], tmp_path / "rows.jsonl", harness)
    seen: list[int] = []
    runs.run(cells, tmp_path / "rows.jsonl", harness, progress=seen.append)
    assert seen == [1, 1]


def test_processes_give_the_rows_that_one_gives(harness: Harness, terms: Terms, tmp_path: Path) -> None:
    cells = [Cell("clean", guard, seed, terms) for seed in (0, 1) for guard in ("none", "hold-all")]
    one, many = tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    runs.run(cells, one, harness)
    runs.run(cells, many, harness, jobs=2)

    def figures(file: Path) -> list[dict[str, object]]:
        return sorted(
            ({**row, "wall_s": 0} for row in runs.rows([file])), key=lambda row: (row["seed"], str(row["guard"]))
        )

    assert figures(one) == figures(many)


def test_the_commands_make_rows_and_a_report(tmp_path: Path) -> None:
    rows, tables = tmp_path / "rows.jsonl", tmp_path / "guard.md"
    runner = CliRunner()
    made = ["guard", "--scenario", "clean", "--guard", "hold-all", "--seeds", "0", "--attack", "1", "--out", str(rows)]
    assert runner.invoke(app, made).exit_code == 0
    assert runner.invoke(app, ["report", str(rows), "--out", str(tables)]).exit_code == 0
    assert "## clean" in tables.read_text()


def test_a_wrong_name_is_explained(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["guard", "--scenario", "nowhere", "--out", str(tmp_path / "rows.jsonl")])
    assert result.exit_code == 2
    assert "nowhere" in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "prob=3"], "prob=3"),
        (["--small", "--lr", "0.1"], "the grid has its own"),
        (["--small", "--slice", "some"], "all or ci"),
        (["--norm", "melted"], "frozen or train"),
    ],
)
def test_options_that_do_not_fit_are_explained(options: list[str], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["guard", "--out", str(tmp_path / "rows.jsonl"), *options])
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
