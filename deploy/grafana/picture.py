"""The dashboards' main panels as a picture, drawn from a real attack: ``python -m deploy.grafana.picture``.

Two services learn from one stream: one is guarded, the other is not. A hostile producer attacks both; Prometheus
scrapes them. What is drawn is what the panels' own expressions answer, in the panels' own colours.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.grafana import check, stage
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from weir.demo.story import STANDARD, Phase
from weir.types import GuardMode

SEED = 0
PACE_SECONDS = 2.0  # a batch of 25 each: some scrapes between two steps
AFTER = 10  # with those before the attack all that the bundled digits have
INTERVAL = "6s"
GUARDED, UNGUARDED = "guarded", "unguarded"
OUT = Path(__file__).parents[2] / "docs/dashboard.png"

INK, PAPER, GRID = "#ccccdc", "#181b1f", "#2c3235"
COLOURS = {"green": "#73bf69", "blue": "#5794f2", "orange": "#ff9830", "red": "#f2495c", "purple": "#b877d9"}
CYCLE = ("#5794f2", "#ff9830", "#73bf69", "#f2495c", "#b877d9", "#fade2a")
SHADES = {Phase.ACCUMULATE: "#ff983026", Phase.TRIGGER: "#f2495c59"}
PLACES = (
    ("weir-overview", "Accuracy"),
    ("weir-overview", "Samples by verdict"),
    ("weir-guard", "Discrepancy of samples"),
    ("weir-guard", "Mean discrepancy of a step against its threshold"),
    ("weir-guard", "Evidence of a step against its threshold"),
    ("weir-overview", "Alarms, vetoes and rollbacks"),
    ("weir-producers", "Evidence against a producer, over its threshold"),
    ("weir-producers", "Held share"),
)


@dataclass(frozen=True, slots=True)
class Show:
    """What ran: when, and which phase of the story began at each moment."""

    prometheus: stage.Prometheus
    start: float
    end: float
    phases: Sequence[tuple[Phase, float]]

    def answers(self, panel: Mapping[str, Any], instance: str) -> list[tuple[str, list[float], list[float]]]:
        """The curves of a panel: name, seconds since the start, values."""
        curves = []
        for target in panel["targets"]:
            expr = check.Question("", "", target["expr"].replace("$instance", instance)).put(INTERVAL)
            for series in self.prometheus.range(expr, self.start, self.end):
                at, values = zip(*series["values"], strict=True)
                moments = [float(moment) - self.start for moment in at]
                name = _named(target.get("legendFormat", ""), series["metric"])
                curves.append((name, moments, [float(value) for value in values]))
        return curves


def perform(folder: Path) -> None:
    """Play the attack and draw it, while Prometheus still answers."""
    modes = {GUARDED: GuardMode.WEIR, UNGUARDED: GuardMode.OFF}
    with (
        stage.serving(modes, folder, plan=STANDARD, seed=SEED) as services,
        stage.scraping(services, folder) as prometheus,
    ):
        prometheus.wait("up == 1")
        start = time.time()
        phases = list(stage.play(services, plan=STANDARD, seed=SEED, after=AFTER, pace=PACE_SECONDS))
        time.sleep(2 * stage.SCRAPE_SECONDS)
        draw(Show(prometheus, start, time.time(), phases), OUT)


def draw(show: Show, path: Path) -> None:
    """Write the panels as a PNG, two to a row."""
    panels = {(board["uid"], panel["title"]): panel for board in check.boards() for panel in board["panels"]}
    figure = Figure(figsize=(14, 13), layout="constrained", facecolor="#111217")
    FigureCanvasAgg(figure)
    grid = figure.subplots(4, 2)
    for axes in grid[-1]:
        axes.set_xlabel("seconds", color=INK, fontsize=8)
    for axes, place in zip(grid.flat, PLACES, strict=True):
        _dress(axes, show, panels[place], place[0].removeprefix("weir-").capitalize())
        if panels[place]["type"] == "heatmap":
            _heat(axes, show, panels[place])
        else:
            _curves(axes, show, panels[place])
    figure.suptitle(
        f"What the dashboards show of an accumulative attack on digits (seed {SEED}); shaded: preparation and trigger",
        color=INK,
    )
    figure.savefig(path, dpi=90, facecolor=figure.get_facecolor())


def _dress(axes: Axes, show: Show, panel: Mapping[str, Any], board: str) -> None:
    axes.set_facecolor(PAPER)
    axes.set_title(f"{board} / {panel['title']}", color=INK, fontsize=10, loc="left")
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=GRID)
    axes.set_xlim(0, show.end - show.start)
    unit = str(panel["fieldConfig"]["defaults"]["unit"]).removeprefix("suffix:").strip()
    axes.set_ylabel({"none": "", "short": "", "percentunit": "%"}.get(unit, unit), color=INK, fontsize=8)
    if unit == "percentunit":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    ends = [*(began for _, began in show.phases[1:]), show.end]
    for (phase, began), end in zip(show.phases, ends, strict=True):
        if phase in SHADES and panel["type"] != "heatmap":
            axes.axvspan(began - show.start, end - show.start, color=SHADES[phase], linewidth=0)


def _curves(axes: Axes, show: Show, panel: Mapping[str, Any]) -> None:
    custom = panel["fieldConfig"]["defaults"]["custom"]
    fixed = _fixed(panel)
    curves = show.answers(panel, GUARDED)
    if panel["title"] == "Accuracy":
        others = {name: (at, values) for name, at, values in show.answers(panel, UNGUARDED)}
        curves.append(("probe set, without a guard", *others["probe set"]))
        fixed["probe set, without a guard"] = "red"
    curves = [curve for curve in curves if any(curve[2])]
    colours = {
        name: COLOURS.get(fixed.get(name, ""), CYCLE[index % len(CYCLE)]) for index, (name, _, _) in enumerate(curves)
    }
    if (custom.get("stacking") or {}).get("mode") == "normal":
        _stack(axes, curves, colours)
    else:
        for name, at, values in curves:
            threshold = name in {"threshold", "configured"}
            colour, style = (COLOURS["purple"], "--") if threshold else (colours[name], "-")
            axes.plot(at, values, label=name, linewidth=1.6, drawstyle="steps-post", color=colour, linestyle=style)
    axes.legend(loc="best", fontsize=8, facecolor=PAPER, edgecolor=GRID, labelcolor=INK)


def _stack(
    axes: Axes, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], colours: Mapping[str, str]
) -> None:
    moments = sorted({moment for _, at, _ in curves for moment in at})
    found = [dict(zip(at, values, strict=True)) for _, at, values in curves]
    heights = [[values.get(moment, 0.0) for moment in moments] for values in found]
    names = [name for name, _, _ in curves]
    axes.stackplot(moments, *heights, labels=names, colors=[colours[name] for name in names], alpha=0.75, step="post")


def _heat(axes: Axes, show: Show, panel: Mapping[str, Any]) -> None:
    curves = sorted(show.answers(panel, GUARDED), key=lambda curve: _bound(curve[0]))
    moments = curves[0][1]
    totals = [dict(zip(at, values, strict=True)) for _, at, values in curves]
    rows, below = [], dict.fromkeys(moments, 0.0)
    for total in totals:
        rows.append([max(0.0, total.get(moment, 0.0) - below[moment]) or math.nan for moment in moments])
        below = {moment: total.get(moment, below[moment]) for moment in moments}
    edges = [moments[0] - stage.SCRAPE_SECONDS, *moments]
    axes.pcolormesh(edges, range(len(rows) + 1), rows, cmap="inferno", norm=LogNorm(vmin=0.5))
    axes.set_yticks(range(1, len(rows) + 1), [name for name, _, _ in curves])
    axes.grid(visible=False)


def _fixed(panel: Mapping[str, Any]) -> dict[str, str]:
    """The colours that a panel gives its curves by name."""
    return {
        rule["matcher"]["options"]: value["value"]["fixedColor"]
        for rule in panel["fieldConfig"]["overrides"]
        for value in rule["properties"]
        if rule["matcher"]["id"] == "byName" and value["id"] == "color"
    }


def _named(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def _bound(name: str) -> float:
    return math.inf if name == "+Inf" else float(name)


def main() -> None:
    """Perform it in a folder that goes away."""
    with TemporaryDirectory(prefix="weir-picture-") as folder:
        perform(Path(folder))
    print(json.dumps({"picture": str(OUT)}))


if __name__ == "__main__":
    main()
