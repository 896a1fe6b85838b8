"""What the commands that speak to a running service share: its address, the key, and how results are read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.cli.output import AsJson, card, document, remark, show

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from weir.client import Client

__all__ = ["AsJson", "KeyFile", "Url", "connect", "each", "report", "values"]

PATIENCE_SECONDS = 3.0

Url = Annotated[str, typer.Option(envvar="WEIR_URL", help="Where the service answers.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="File that holds the API key (else WEIR_KEY); keys are no arguments, which all may read."),
]
DEFAULT_URL = "http://127.0.0.1:8790"


def connect(url: str, key_file: Path | None, *, producer: str | None = None, patience: float | None = None) -> Client:
    """A client for this address; raises InvalidSetting for a key file that cannot be read."""
    from weir.client import Client

    return Client(url, _key(key_file), producer=producer, patience=PATIENCE_SECONDS if patience is None else patience)


def report(result: DataclassInstance, *, as_json: bool) -> None:
    """Print what a command gave, or that it still waits its turn in the log."""
    from weir.client import Queued

    if isinstance(result, Queued):
        remark(f"Queued: the learner has not come to it yet. GET /v1/commands/{result.id} tells when it has.")
        return document(values(result)) if as_json else None
    return card(values(result), as_json=as_json)


def each(ids: Sequence[str], answer: Callable[[str], Any], columns: Sequence[str], as_json: bool) -> None:
    """Answer every id, whatever becomes of the others; exits with 1 when one could not be answered."""
    from weir.errors import WeirError

    items, failed = [], False
    for id in ids:
        try:
            items.append(values(answer(id)))
        except WeirError as error:
            failed = True
            remark(f"weir: {id}: {error}")
    show(items, columns, as_json=as_json, nothing="None was answered.")
    if failed:
        raise typer.Exit(1)


def values(result: DataclassInstance) -> dict[str, Any]:
    """A result as JSON-ready values."""
    return dataclasses.asdict(result)


def _key(key_file: Path | None) -> str | None:
    from weir.errors import InvalidSetting

    if key_file is None:
        return os.environ.get("WEIR_KEY") or None
    try:
        return key_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting("--key-file", f"{key_file} ({error})", "a text file with one API key") from None
