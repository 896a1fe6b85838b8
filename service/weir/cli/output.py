"""What commands print: one table or one JSON document on standard output, remarks on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

WIDE = 240  # columns for whoever reads the table through a pipe

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def show(
    items: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, nothing: str = "Nothing here."
) -> None:
    """Print items as a table of these columns, or all they hold as a JSON list."""
    if as_json:
        return document(list(items))
    if not items:
        return remark(nothing)
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.removesuffix("_at").replace("_", " "), overflow="fold")
    for item in items:
        table.add_row(*(cell(column, item.get(column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else WIDE, markup=False, highlight=False).print(table)
    return None


def card(item: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing as lines of name and value, or as a JSON object."""
    if as_json:
        return document(item)
    width = max(map(len, item), default=0)
    for name, value in item.items():
        print(f"{name.removesuffix('_at').replace('_', ' '):<{width}}  {cell(name, value)}")
    return None


def document(value: object) -> None:
    """Print JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def remark(text: str) -> None:
    """Say something to a person, out of the way of what a program reads."""
    print(text, file=sys.stderr)


def cell(name: str, value: object) -> str:
    """A value in few characters; the name tells what a number means."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_at") and isinstance(value, (int, float)):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell("", part) for part in value)
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; call what it gives to go on by so many."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
