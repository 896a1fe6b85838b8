"""The run as one picture: what the models could do, and what the guard saw."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from weir.demo.record import GUARDED, REFERENCE, UNGUARDED, Moment, Record
from weir.demo.story import Phase

# The reference is a broad band: a guarded model that does as well lies right on it.
_PENS = {REFERENCE: ("#9ec5fe", 6.0), UNGUARDED: ("#cf222e", 2.0), GUARDED: ("#1a7f37", 2.0)}
_HONEST, _HOSTILE, _THRESHOLD = "#57606a", "#cf222e", "#8250df"
_SHADES = {Phase.ACCUMULATE: "#fff1e5", Phase.TRIGGER: "#ffcecb"}


def draw(record: Record, path: Path) -> None:
    """Write a PNG: accuracies, discrepancies and evidence over the positions of the stream, one batch each."""
    figure = Figure(figsize=(11, 10), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, discrepancy, evidence = figure.subplots(3, sharex=True, height_ratios=(3, 2, 2))
    _accuracies(accuracy, record)
    _discrepancies(discrepancy, record.moments)
    _evidence(evidence, record.moments)
    _shade(accuracy, record.moments)
    for axes in (accuracy, discrepancy, evidence):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axes.grid(axis="y", alpha=0.3)
    for axes in (discrepancy, evidence):
        _shade(axes, record.moments)  # after the legend: the phases are named once
    evidence.set_xlabel("batch")
    evidence.set_xlim(0, len(record.moments))
    figure.suptitle(f"weir demo, seed {record.seed}: one stream, one attack, three services")
    figure.savefig(path, dpi=110)


def _accuracies(axes: Axes, record: Record) -> None:
    for name, (colour, width) in _PENS.items():
        axes.plot([100 * value for value in record.accuracies(name)], color=colour, label=name, linewidth=width)
    axes.set_ylabel("test accuracy, %")


def _discrepancies(axes: Axes, moments: Sequence[Moment]) -> None:
    for hostile, colour, label in ((False, _HONEST, "honest sample"), (True, _HOSTILE, "hostile sample")):
        points = [
            (at, value)
            for at, moment in enumerate(moments, 1)
            if moment.phase.hostile is hostile
            for value in moment.guard.discrepancies
        ]
        axes.scatter(
            [at for at, _ in points], [value for _, value in points], s=6, color=colour, alpha=0.35, label=label
        )
    _line(axes, [moment.guard.discrepancy for moment in moments], "black", "mean of the step")
    _line(axes, [moment.guard.discrepancy_threshold for moment in moments], _THRESHOLD, "threshold of the mean", "--")
    axes.set_ylabel("memorization discrepancy, nats")


def _evidence(axes: Axes, moments: Sequence[Moment]) -> None:
    _line(axes, [moment.guard.score for moment in moments], "black", "all signals together")
    _line(axes, [moment.guard.score_threshold for moment in moments], _THRESHOLD, "threshold", "--")
    axes.set_ylabel("evidence of the step")


def _line(axes: Axes, values: Sequence[float | None], colour: str, label: str, style: str = "-") -> None:
    known = [float("nan") if value is None else value for value in values]
    axes.plot(range(1, len(known) + 1), known, style, color=colour, label=label, linewidth=1.2)


def _shade(axes: Axes, moments: Sequence[Moment]) -> None:
    end = 0
    for phase, group in groupby(moments, key=lambda moment: moment.phase):
        start, end = end, end + len(list(group))
        if phase in _SHADES:
            axes.axvspan(start + 0.5, end + 0.5, color=_SHADES[phase], zorder=0, label=phase)
        if phase is Phase.TRIGGER:
            axes.axvline(start + 1, color=_HOSTILE, linestyle=":", linewidth=1.2)
