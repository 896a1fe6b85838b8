"""One page of all that was measured of speed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

# In the order of the page; each is the module that measured it, and its heading.
HEADINGS = {
    "overhead": "What guarding costs",
    "published": "Against the published rule",
    "ingest": "Taking batches",
    "predict": "Predictions while learning",
    "ranks": "One learner, several processes",
    "scaling": "Where it stops to scale: a model",
    "growth": "Cost over time",
    "startup": "Start-up",
}
HEAD = """# Performance

Ratios are of one run, in which the subjects take turns; seconds say what this machine is like. `make bench` makes the
figures again, but for those of many producers, of large batches, of a CNN and of batch norm that learns, and
`weir bench performance` this page of them. [Notes](performance-notes.md) tell what was tried, what was expected of it
and what it gave. No GPU was at hand: there are no rows of one, and the commands take `--device cuda`.
"""


def performance(
    files: Annotated[list[Path], typer.Argument(help="JSON files of weir bench.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="Markdown file.", dir_okay=False)] = Path("benchmarks/performance.md"),
) -> None:
    """One page of the files that the other commands of speed have written."""
    results = [json.loads(file.read_text()) for file in files]
    out.write_text(page(results))
    typer.echo(f"{out}: {len(results)} benchmarks")


def page(results: Iterable[dict[str, Any]]) -> str:
    """The results as Markdown, each kind under its heading."""
    given = list(results)
    lines = [HEAD]
    for name, heading in HEADINGS.items():
        tables = [table(result) for result in given if result.get("benchmark") == name]
        if tables:
            lines += [f"## {heading}\n", *(f"{made}\n" for made in tables)]
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """One result as the module that measured it shows it."""
    shown: str = importlib.import_module(f"weir.bench.{result['benchmark']}").table(result)
    return shown
