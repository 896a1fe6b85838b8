"""The rows as pictures; needs matplotlib."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from weir.bench.bars import ROOM
from weir.bench.guards import GUARDS
from weir.bench.report import Row, grouped

PENS = {"none": "#cf222e", "dsc-calibrated": "#bf8700", "gate-only": "#8250df", "weir": "#1a7f37"}


def accuracies(rows: Sequence[Row], path: Path) -> None:
    """Mean test accuracy over the turns of a stream, a panel for each table, a line for each principal guard."""
    tables = grouped(rows)
    figure = Figure(figsize=(13, 2.6 * -(-len(tables) // 3)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, guards in zip(_panels(figure, len(tables)), tables.values(), strict=True):
        for guard, colour in PENS.items():
            if guard in guards:
                columns = zip(*(run["accuracy"] for run in guards[guard]), strict=True)
                axes.plot([100 * statistics.fmean(c) for c in columns], color=colour, label=guard, linewidth=1.3)
        first = next(iter(guards.values()))[0]
        axes.set_title(f"{first['scenario']}, lr {first['lr']:g}", fontsize=10)
        axes.grid(axis="y", alpha=0.3)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.axes[0].legend(lines, labels, fontsize=8)
    figure.supxlabel("turn")
    figure.supylabel("test accuracy, %")
    figure.savefig(path, dpi=100)


def protection(rows: Sequence[Row], path: Path) -> None:
    """One dot a guard: accuracy lost to attacks that bite against what it can still learn, means over runs.

    Only guards that stand in every table are drawn: a mean over easier scenarios would flatter the others.
    """
    everywhere = {row["scenario"] for row in rows}
    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for guard in GUARDS:
        mine = [row for row in rows if row["guard"] == guard]
        if {row["scenario"] for row in mine} != everywhere:
            continue
        costs = [row["accuracy_reference"] - row["accuracy_after_trigger"] for row in mine if row["attack_bites"]]
        learned = [row["plasticity_ratio"] for row in mine if row["unguarded_gain"] >= ROOM]
        if costs and learned:
            at = (statistics.fmean(learned), 100 * statistics.fmean(costs))
            axes.scatter(*at, color=PENS.get(guard, "#57606a"), marker="x" if GUARDS[guard].dummy else "o")
            axes.annotate(guard, at, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("plasticity: gain without the attack / unguarded gain")
    axes.set_ylabel("points lost to attacks that bite (down is better)")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def _panels(figure: Figure, count: int) -> list[Axes]:
    height = -(-count // 3)
    return [figure.add_subplot(height, 3, number + 1) for number in range(count)]
