"""``weir checkpoints`` and ``weir rollback``: the durable states of a running service's model."""

from __future__ import annotations

from typing import Annotated

import typer

from weir.cli.output import show
from weir.cli.remote import DEFAULT_URL, AsJson, KeyFile, Url, connect, report, values

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_checkpoints(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """List the checkpoints, oldest first, and from which of them a replay can begin."""
    with connect(url, key_file) as client:
        items = [values(checkpoint) for checkpoint in client.checkpoints()]
    show(items, ("id", "step", "created_at", "bytes", "replayable", "reason"), as_json=as_json)


@app.command()
def create(
    reason: Annotated[str, typer.Option(help="Why; it stands in the list.")] = "manual",
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Save a checkpoint now, between two steps.

    \b
    Example:
      weir checkpoints create --reason "before the new producer"
    """
    with connect(url, key_file) as client:
        report(client.checkpoint(reason), as_json=as_json)


def rollback(
    id: Annotated[str, typer.Argument(help="The checkpoint's id, as `weir checkpoints list` shows it.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the weights of a checkpoint. What was learned since is undone and not learned again.

    The state before it stays in the list, so a rollback can be rolled back too.

    \b
    Example:
      weir rollback 00000004-1500
    """
    with connect(url, key_file) as client:
        report(client.rollback(id), as_json=as_json)
