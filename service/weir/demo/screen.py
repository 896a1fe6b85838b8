"""What the terminal shows: a live view where there is a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from weir.demo.outcome import Outcome
from weir.demo.record import GUARDED, NAMES, REFERENCE, UNGUARDED, Moment, Record
from weir.demo.story import Phase

STYLES = {GUARDED: "green", UNGUARDED: "red", REFERENCE: "blue"}
_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 48  # newest accuracies that a sparkline shows


class Screen(Protocol):
    """Where the story is told while it happens."""

    def say(self, what: str) -> None:
        """One line before the stream opens."""

    def show(self, start: Mapping[str, float], moments: Sequence[Moment], total: int) -> None:
        """The newest moment, in the light of all so far."""


@contextmanager
def watching(console: Console, *, quiet: bool) -> Iterator[Screen]:
    """A screen that fits the console, or one that shows nothing."""
    if quiet:
        yield _Nothing()
    elif console.is_terminal:
        with Live(console=console, transient=True, refresh_per_second=8) as live:
            yield _Picture(live)
    else:
        yield _Lines(console)


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """The values as bars on a scale from ``low`` to ``high``."""
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in values)


def summary(record: Record, outcome: Outcome, out: Path) -> RenderableType:
    """The end of the story: accuracies, what became of the samples, the conditions, and where the files are."""
    verdict = Text("PASSED", "bold green") if outcome.passed else Text("FAILED", "bold red")
    lines = [
        Text.assemble(("pass " if c.passed else "FAIL ", "green" if c.passed else "bold red"), f"{c.name}: {c.figures}")
        for c in outcome.conditions
    ]
    files = f"seed {record.seed}, {record.seconds:.0f} s; picture and numbers: {out / 'demo.png'}, {out / 'demo.json'}"
    if not outcome.passed:
        files += f"; logs of the services: {out}/demo-*.log"
    return Group(_accuracy_table(record, outcome), Text(), _sample_table(record), Text(), *lines, verdict, Text(files))


class _Nothing:
    def say(self, what: str) -> None:
        pass

    def show(self, start: Mapping[str, float], moments: Sequence[Moment], total: int) -> None:
        pass


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, what: str) -> None:
        self._console.print(what, highlight=False, soft_wrap=True)

    def show(self, start: Mapping[str, float], moments: Sequence[Moment], total: int) -> None:
        newest = moments[-1]
        accuracies = "  ".join(f"{name} {newest.accuracy[name]:.1%}" for name in NAMES)
        line = f"{len(moments):3d}/{total}  {newest.phase:<20}  {accuracies}  {_verdicts(newest)}"
        self._console.print(line, highlight=False, soft_wrap=True)


class _Picture:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._bars = not live.console.options.ascii_only

    def say(self, what: str) -> None:
        self._live.update(Text(what))

    def show(self, start: Mapping[str, float], moments: Sequence[Moment], total: int) -> None:
        newest = moments[-1]
        heading = Table.grid(padding=(0, 2))
        heading.add_row(
            Text("weir demo", "bold"),
            ProgressBar(total=total, completed=len(moments), width=40),
            f"{len(moments)}/{total}",
            Text(newest.phase, "bold red" if newest.phase.hostile else "bold"),
        )
        parts = (heading, self._accuracies(start, moments), _guard(moments))
        self._live.update(Group(*(Padding(part, (0, 0, 1, 0)) for part in parts), Text(_verdicts(newest))))

    def _accuracies(self, start: Mapping[str, float], moments: Sequence[Moment]) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("test accuracy", "now", "start", ""):
            table.add_column(title)
        past = {name: [start[name], *(moment.accuracy[name] for moment in moments)][-_SPARKS:] for name in NAMES}
        scale = min(map(min, past.values())), max(map(max, past.values()))
        for name, values in past.items():
            bars = Text(sparkline(values, *scale) if self._bars else "", STYLES[name])
            table.add_row(Text(name, STYLES[name]), f"{values[-1]:.1%}", f"{start[name]:.1%}", bars)
        return table


def _guard(moments: Sequence[Moment]) -> Table:
    """The guarded service in numbers."""
    guard = moments[-1].guard
    table = Table(box=None, pad_edge=False, show_header=False)
    accuracy = guard.progressive_accuracy
    table.add_row("step", str(guard.step), "progressive accuracy", "-" if accuracy is None else f"{accuracy:.1%}")
    table.add_row(
        "discrepancy, nats",
        _against(guard.discrepancy, guard.discrepancy_threshold),
        "evidence of the step",
        _against(guard.score, guard.score_threshold),
    )
    for title, hostile in (("honest samples", False), ("hostile samples", True)):
        accepted, corrected, held = _totals(moments, hostile=hostile)
        table.add_row(title, f"{accepted} accepted", f"{corrected} corrected", f"{held} held")
    return table


def _against(value: float | None, threshold: float | None) -> Text:
    if value is None or threshold is None:
        return Text("-")
    return Text(f"{value:.3f} / {threshold:.3f}", "bold red" if value > threshold else "")


def _verdicts(moment: Moment) -> str:
    guard = moment.guard
    return f"guard: {guard.accepted} accepted, {guard.corrected} corrected, {guard.held} held"


def _totals(moments: Sequence[Moment], *, hostile: bool) -> tuple[int, int, int]:
    chosen = [moment.guard for moment in moments if moment.phase.hostile is hostile]
    return sum(g.accepted for g in chosen), sum(g.corrected for g in chosen), sum(g.held for g in chosen)


def _accuracy_table(record: Record, outcome: Outcome) -> Table:
    before = next(at for at, moment in enumerate(record.moments) if moment.phase is Phase.TRIGGER)
    table = Table(box=None, pad_edge=False)
    for title in ("test accuracy, %", "start", "before the trigger", "after it (median)", "end (median)", "gain"):
        table.add_column(title, justify="left" if title.startswith("test") else "right")
    for name in NAMES:
        accuracies = record.accuracies(name)
        figures = [100 * accuracies[0], 100 * accuracies[before], outcome.after_trigger[name], outcome.end[name]]
        table.add_row(Text(name, STYLES[name]), *(f"{value:.1f}" for value in figures), f"{outcome.gain[name]:+.1f}")
    return table


def _sample_table(record: Record) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("samples, guarded service", "accepted", "corrected", "held"):
        table.add_column(title, justify="left" if title.startswith("samples") else "right")
    for title, hostile in (("from the honest producer", False), ("from the hostile producer", True)):
        table.add_row(title, *map(str, _totals(record.moments, hostile=hostile)))
    return table
