"""``weir quarantine``: the review of what the guard holds back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from weir.cli.output import card, document, remark, show
from weir.cli.remote import DEFAULT_URL, AsJson, KeyFile, Url, connect, values

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(no_args_is_help=True)

COLUMNS = ("id", "producer", "label", "state", "reason", "score", "threshold", "discrepancy", "pvalue", "held_at")
SHADES = " .:-=+*#%@"

_E = TypeVar("_E", bound=StrEnum)

Ids = Annotated[list[str], typer.Argument(help="Ids of held samples, as `weir quarantine list` shows them.")]
Note = Annotated[str | None, typer.Option(help="A note that stays on record.")]


@app.command("list")
def list_held(
    state: Annotated[str, typer.Option(help="held, releasing, released, release_vetoed, discarded or all.")] = "held",
    producer: Annotated[str | None, typer.Option(help="Only this producer's.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only what is held for this reason: sample, veto ...")] = None,
    batch: Annotated[str | None, typer.Option(help="Only this batch's.")] = None,
    label: Annotated[int | None, typer.Option(help="Only samples that came with this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List held samples in the order they were held, with the evidence against them.

    \b
    Examples:
      weir quarantine list --producer sensor-7
      weir quarantine list --reason veto --json | jq -r '.[].id' | xargs weir quarantine discard
    """
    from weir.stores.base import HeldState
    from weir.types import Reason

    in_state = None if state == "all" else _member(HeldState, "--state", state)
    because = None if reason is None else _member(Reason, "--reason", reason)
    with connect(url, key_file) as client:
        found = client.quarantine(state=in_state, reason=because, producer=producer, batch=batch, label=label)
        items = [values(sample) for sample in islice(found, limit)]
    show(items, COLUMNS, as_json=as_json, nothing="Nothing is held that fits.")
    if len(items) == limit:
        remark(f"There may be more than these {limit}: raise --limit.")


@app.command("show")
def show_held(
    id: Annotated[str, typer.Argument(help="The sample's id.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Show one held sample: its evidence, and what it looks like if it is a small image."""
    with connect(url, key_file) as client:
        held = client.held(id)
    told = {name: getattr(held, name) for name in held.__dataclass_fields__ if name != "x"}
    if as_json:
        return document({**told, "x": held.x.tolist()})
    card({**told, "x": f"{held.x.dtype} {list(held.x.shape)}"}, as_json=False)
    picture = _picture(held.x)
    return print(picture) if picture else None


@app.command()
def release(
    ids: Ids,
    label: Annotated[int | None, typer.Option(help="Learn it with this label instead of its own.")] = None,
    note: Note = None,
    force: Annotated[bool, typer.Option(help="Administrators: the gate may not undo it.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let held samples through to the model: they skip the guard, not the gate.

    \b
    Examples:
      weir quarantine release 3f2a9c:17
      weir quarantine release 3f2a9c:17 --label 4 --note "a four, badly written"
    """
    with connect(url, key_file) as client:
        _each(ids, lambda id: client.release(id, label, note=note, force=force), ("id", "state", "step"), as_json)


@app.command()
def discard(
    ids: Ids, note: Note = None, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False
) -> None:
    """Never learn these held samples; they stay on record.

    \b
    Example:
      weir quarantine discard 3f2a9c:17 3f2a9c:18 --note "the label is wrong"
    """
    with connect(url, key_file) as client:
        _each(ids, lambda id: client.discard(id, note=note), ("id", "state", "resolved_by"), as_json)


def _each(ids: Sequence[str], answer: Callable[[str], Any], columns: Sequence[str], as_json: bool) -> None:
    """Answer every sample, whatever becomes of the others; exits with 1 when one could not be answered."""
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


def _member(kind: type[_E], option: str, text: str) -> _E:
    from weir.errors import InvalidSetting

    try:
        return kind(text)
    except ValueError:
        raise InvalidSetting(option, text, f"one of {', '.join(kind)}") from None


def _picture(x: Tensor) -> str | None:
    """A grey image of up to 64 columns as text, two characters a pixel; None for anything else."""
    if x.ndim not in (2, 3) or x.shape[-1] > 64 or (x.ndim == 3 and x.shape[0] != 1):
        return None
    grey = x.reshape(x.shape[-2:]).float()
    span = float(grey.max() - grey.min()) or 1.0
    levels = ((grey - grey.min()) / span * (len(SHADES) - 1)).round().int().tolist()
    return "\n".join("".join(SHADES[level] * 2 for level in row).rstrip() for row in levels)
