"""``weir probe``: the trusted samples that the guard is calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weir.cli import burnin
from weir.cli.remote import DEFAULT_URL, AsJson, KeyFile, Url, connect, report

app = typer.Typer(no_args_is_help=True)
app.command("split")(burnin.split)


@app.command()
def status(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Show the probe set's version, age and size per class: never its samples."""
    with connect(url, key_file) as client:
        report(client.probe(), as_json=as_json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Trusted samples (.npz, .parquet), never trained on.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Replace the probe set of a running service.

    \b
    Example:
      weir probe import trusted.npz --key-file admin.key
    """
    from weir import datasets

    samples = datasets.load(file)
    with connect(url, key_file) as client:
        report(client.replace_probe(samples.x, samples.y), as_json=as_json)
