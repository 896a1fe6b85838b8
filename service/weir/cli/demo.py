"""``weir demo``: the story in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weir.cli.output import AsJson


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another stream and another attack.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the picture and its numbers.")] = Path("weir-demo"),
    as_json: AsJson = False,
) -> None:
    """Watch an attack ruin an unguarded model while the guarded one goes on learning.

    Real services on this machine, one stream, one hostile producer. It exits with 1 unless the attack bites without
    a guard, the guard stops it, and the guarded model still learns. The picture and the numbers stay in --out.

    \b
    Examples:
      weir demo
      weir demo --seed 3 --out /tmp/demo
    """
    from rich.console import Console

    from weir.demo import run

    raise typer.Exit(run(out, seed, as_json, Console()))
