"""``weir dead-letters``: deliveries that could not be processed."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from weir.cli.output import remark, show
from weir.cli.remote import DEFAULT_URL, AsJson, KeyFile, Url, connect, each, report, values

app = typer.Typer(no_args_is_help=True)

COLUMNS = ("id", "producer", "samples", "step", "at", "retried_as", "error")

Ids = Annotated[list[str], typer.Argument(help="Ids of dead letters, as `weir dead-letters list` shows them.")]


@app.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters in the order they came, with what was raised.

    \b
    Example:
      weir dead-letters list --json
    """
    with connect(url, key_file) as client:
        items = [values(letter) for letter in islice(client.dead_letters(), limit)]
    show(items, COLUMNS, as_json=as_json, nothing="There are no dead letters.")
    if len(items) == limit:
        remark(f"There may be more than these {limit}: raise --limit.")


@app.command("show")
def show_letter(
    id: Annotated[str, typer.Argument(help="The letter's id.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: its error, and the shape, type and labels of its samples."""
    with connect(url, key_file) as client:
        report(client.dead_letter(id), as_json=as_json)


@app.command()
def retry(ids: Ids, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Send dead letters anew, each once, as batches of the producers that sent them first.

    \b
    Example:
      weir dead-letters retry b_3f2a9c:0
    """
    with connect(url, key_file) as client:
        each(ids, client.retry, ("id", "batch", "samples"), as_json)


@app.command()
def drop(ids: Ids, url: Url = DEFAULT_URL, key_file: KeyFile = None) -> None:
    """Delete dead letters and their samples for good.

    \b
    Example:
      weir dead-letters drop b_3f2a9c:0
    """
    from weir.errors import WeirError

    failed = False
    with connect(url, key_file) as client:
        for id in ids:
            try:
                client.drop(id)
            except WeirError as error:
                failed = True
                remark(f"weir: {id}: {error}")
    if failed:
        raise typer.Exit(1)
