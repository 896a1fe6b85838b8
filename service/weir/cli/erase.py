"""``weir erase``: data that must go, for good."""

from __future__ import annotations

from typing import Annotated

import typer

from weir.cli.output import remark
from weir.cli.remote import DEFAULT_URL, AsJson, KeyFile, Url, connect, report


def erase(
    producer: Annotated[str | None, typer.Option(help="All that this producer sent.")] = None,
    batch: Annotated[str | None, typer.Option(help="All of this batch.")] = None,
    sample: Annotated[str | None, typer.Option(help="One sample, as BATCH:INDEX.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it, not only say how much there is.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Erase what a producer, a batch or a sample left in log, quarantine and dead letters.

    Without --yes it only counts. Weights stay as they are: to take it out of them too, replay from a checkpoint that
    had not learned it.

    \b
    Examples:
      weir erase --producer sensor-7
      weir erase --producer sensor-7 --yes
    """
    from weir.client import ErasureReport
    from weir.errors import InvalidInput

    given = {"--producer": producer, "--batch": batch, "--sample": sample}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise InvalidInput("arguments", " ".join(named) or "nothing", f"exactly one of {', '.join(given)}")
    with connect(url, key_file) as client:
        done = client.erase(producer=producer, batch=batch, sample=sample, dry_run=not yes)
    report(done, as_json=as_json)
    if not isinstance(done, ErasureReport):
        return
    if done.dry_run:
        remark("Nothing was erased. To do it, add --yes.")
    elif done.checkpoints:
        remark("These checkpoints learned from it: weir replay, from one before them, makes a model that has not.")
