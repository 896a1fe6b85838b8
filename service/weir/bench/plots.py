"""The rows as pictures; needs matplotlib."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from weir.bench.bars import ROOM
from weir.bench.guards import GUARDS
from weir.bench.tables import ALL_EVIDENCE, MODEL_ONLY, PUBLISHED, Row, Table, tables

PENS = {
    "none": "#cf222e",
    PUBLISHED: "#bf8700",
    "gate-only": "#8250df",
    ALL_EVIDENCE: "#1a7f37",
    MODEL_ONLY: "#0969da",
}
WIDTHS = {"none": 3.0}  # what often lies under another line
GREY = "#57606a"
WIDE = 4  # panels beside each other


def accuracies(rows: Sequence[Row], path: Path) -> None:
    """Mean test accuracy over the turns of a stream, a panel for each table, a line for each principal guard."""
    figure = _matrix(tables(rows), _accuracy)
    figure.supxlabel("turn", fontsize=10)
    figure.supylabel("test accuracy, %", fontsize=10)
    figure.savefig(path, dpi=100)


def curves(rows: Sequence[Row], path: Path) -> None:
    """ROC of single samples' scores, a panel for each attack, a curve for each guard that scores, means over seeds."""
    figure = _matrix([table for table in tables(rows) if _scored(table)], _curve)
    figure.supxlabel("share of honest samples above the threshold", fontsize=10)
    figure.supylabel("share of poisoned samples above it", fontsize=10)
    figure.savefig(path, dpi=100)


def protection(rows: Sequence[Row], path: Path) -> None:
    """One dot a guard: accuracy lost to attacks that bite against what it can still learn, means over runs.

    Drawn over the tables in which most guards stand, and of those guards only that stand in all of these: a mean over
    easier scenarios would flatter the others.
    """
    guards_at: dict[str, set[str]] = {}
    for row in rows:
        guards_at.setdefault(_place(row), set()).add(row["guard"])
    most = max(map(len, guards_at.values()), default=0)
    fullest = {place for place, guards in guards_at.items() if len(guards) == most}
    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    dots: dict[str, tuple[float, float]] = {}
    for guard in GUARDS:
        mine = [row for row in rows if row["guard"] == guard and _place(row) in fullest]
        at = _dot(mine) if {_place(row) for row in mine} == fullest else None
        if at is not None:
            axes.scatter(*at, color=PENS.get(guard, GREY), marker="x" if GUARDS[guard].dummy else "o")
            dots[guard] = at
    crowds = _crowds(dots)
    for at, names in crowds:
        side, offset = ("right", -5) if _has_a_right_neighbour(at, crowds) else ("left", 5)
        axes.annotate(names, at, xytext=(offset, 4), textcoords="offset points", fontsize=8, ha=side)
    axes.set_xlabel("plasticity: gain without the attack / unguarded gain")
    axes.set_ylabel("points lost to attacks that bite (down is better)")
    axes.margins(x=0.2, y=0.1)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def growth(rows: Sequence[Row], path: Path) -> None:
    """What weir bench growth found, over batches, producers and rows: a panel each, and one for the memory."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2).flatten()
    tenths, known = ([row for row in rows if row["part"] == part] for part in ("engine", "producers"))
    batches = list(itertools.accumulate(row["batches"] for row in tenths))
    for name, label in STEP.items():
        panels[0].plot(batches, [1e3 * row[name] for row in tenths], "o-", label=label)
    for name, label in MEMORY.items():
        panels[1].plot(batches, [row[name] / tenths[0][name] for row in tenths], "o-", label=label)
    for name, label in CALLS.items():
        panels[2].plot([row["producers"] for row in known], [1e3 * row[name] for row in known], "o-", label=label)
    for store, colour in STORES.items():
        mine = [row for row in rows if row["part"] == "inbox" and row["store"] == store]
        for name, dashed in OPERATIONS.items():
            seconds = [1e3 * row[f"{name}_seconds"] for row in mine]
            panels[3].plot([row["rows"] for row in mine], seconds, dashed, color=colour, label=f"{store}: {name}")
    for axes, (across, up, logarithmic) in zip(panels, PANELS, strict=True):
        _dress(axes, across, up, logarithmic=logarithmic)
    figure.savefig(path, dpi=100)


STEP = {"median_seconds": "median", "p99_seconds": "p99", "busy_seconds": "median, processor time"}
MEMORY = {"rss_bytes": "resident memory", "objects": "Python objects", "state_bytes": "bytes of the engine's state"}
CALLS = {"process_seconds": "Engine.process", "report_seconds": "Engine.producers"}
STORES = {"sqlite": "#0969da", "redis": "#cf222e"}
OPERATIONS = {"append": "o-", "relaxed": "o--", "take": "o:"}
PANELS = (
    ("batches", "seconds of a step, ms", False),
    ("batches", "of what there was after the first tenth", False),
    ("producers known", "seconds of a step with ten of them, ms", True),
    ("rows waiting", "median, ms", True),
)
CROWD = (0.05, 0.5)  # closer than this in plasticity and points, two dots have one label
LABEL = (0.3, 0.3)  # what a label takes, in the same units
PICTURES = {"accuracy": accuracies, "roc": curves, "protection": protection}


def _dress(axes: Axes, across: str, up: str, *, logarithmic: bool) -> None:
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.grid(alpha=0.3)
    if not any(np.size(line.get_xdata()) for line in axes.get_lines()):
        return  # a part that was left out
    if logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)


def _place(row: Row) -> str:
    return json.dumps([row["scenario"], row["terms"]], sort_keys=True)


def _dot(mine: Sequence[Row]) -> tuple[float, float] | None:
    """Mean plasticity and mean points lost, or None where no attack bites or there is nothing to learn."""
    costs = [row["accuracy_reference"] - row["accuracy_after_trigger"] for row in mine if row["attack_bites"]]
    learned = [row["plasticity_ratio"] for row in mine if row["unguarded_gain"] >= ROOM]
    return (statistics.fmean(learned), 100 * statistics.fmean(costs)) if costs and learned else None


def _crowds(dots: Mapping[str, tuple[float, float]]) -> list[tuple[tuple[float, float], str]]:
    """Where to write which names: dots that would share their labels' place share one label."""
    crowds: dict[tuple[float, float], list[str]] = {}
    for guard, (right, up) in dots.items():
        near = (at for at in crowds if abs(at[0] - right) < CROWD[0] and abs(at[1] - up) < CROWD[1])
        crowds.setdefault(next(near, (right, up)), []).append(guard)
    return [(at, ", ".join(names) if len(names) < 4 else _short(names)) for at, names in crowds.items()]


def _has_a_right_neighbour(at: tuple[float, float], crowds: Sequence[tuple[tuple[float, float], str]]) -> bool:
    """Whether a label to the right of a dot would run into that of another."""
    return any(0 < right - at[0] < LABEL[0] and abs(up - at[1]) < LABEL[1] for (right, up), _ in crowds)


def _short(names: list[str]) -> str:
    first = "weir" if "weir" in names else names[0]
    return f"{first} and {len(names) - 1} more"


def _accuracy(axes: Axes, table: Table) -> None:
    for guard, colour in PENS.items():
        if guard in table.guards:
            columns = zip(*(run["accuracy"] for run in table.guards[guard]), strict=True)
            axes.plot(
                [100 * statistics.fmean(c) for c in columns],
                color=colour,
                label=guard,
                linewidth=WIDTHS.get(guard, 1.3),
            )
    axes.grid(axis="y", alpha=0.3)


def _curve(axes: Axes, table: Table) -> None:
    for guard in _scored(table):
        found = [run["roc"] for run in table.guards[guard] if run["roc"]]
        rates = [statistics.fmean(column) for column in zip(*(roc["tpr"] for roc in found), strict=True)]
        dashed = "--" if GUARDS[guard].dummy else "-"
        axes.plot(found[0]["fpr"], rates, dashed, color=PENS.get(guard), label=guard, linewidth=1.3)
    axes.set_xscale("symlog", linthresh=0.01, linscale=0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)


def _scored(table: Table) -> list[str]:
    return [guard for guard, runs in table.guards.items() if any(run["roc"] for run in runs)]


def _matrix(made: Sequence[Table], draw: Callable[[Axes, Table], None]) -> Figure:
    """A panel for each table, and one legend of all lines."""
    height = max(1, -(-len(made) // WIDE))
    figure = Figure(figsize=(3.4 * min(WIDE, max(2, len(made))), 2.5 * height + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, table in zip(_panels(figure, height, len(made)), made, strict=True):
        draw(axes, table)
        axes.set_title(f"{table.scenario}\n{_subtitle(table)}", fontsize=8)
        axes.tick_params(labelsize=7)
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    if lines:
        figure.legend(
            lines.values(),
            lines.keys(),
            loc="outside upper center",
            ncols=min(len(lines), 6),
            fontsize=9,
            frameon=False,
        )
    return figure


def _subtitle(table: Table) -> str:
    norm = "" if table.norm == "none" else f", BN {table.norm}"
    return f"{table.model.replace('hidden ', '').replace('width ', '')}, lr {table.row['lr']:g}{norm}"


def _panels(figure: Figure, height: int, count: int) -> Iterator[Axes]:
    return (figure.add_subplot(height, min(WIDE, max(2, count)), number + 1) for number in range(count))
