"""``weir quarantine``: the review of what the guard holds back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from weir.cli.output import card, document, remark, show
from weir.cli.remote import DEFAULT_URL, AsJson, KeyFile, Url, connect, each, report, values

if TYPE_CHECKING:
    from torch import Tensor

    from weir.client import Queued, ReviewReport
    from weir.stores.base import HeldState
    from weir.types import Reason

app = typer.Typer(no_args_is_help=True)

COLUMNS = ("id", "producer", "label", "state", "reason", "score", "threshold", "discrepancy", "pvalue", "held_at")
PAST = {"release": "released", "discard": "discarded"}
SHADES = " .:-=+*#%@"

_E = TypeVar("_E", bound=StrEnum)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of held samples, as `weir quarantine list` shows them.")]
AllMatching = Annotated[bool, typer.Option("--all-matching", help="All that are held and fit, not single ids.")]
OfProducer = Annotated[str | None, typer.Option(help="Only this producer's.")]
ForReason = Annotated[str | None, typer.Option(help="Only what is held for this reason: sample, veto ...")]
OfBatch = Annotated[str | None, typer.Option(help="Only this batch's.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="With --all-matching: at most so many.")]
Yes = Annotated[bool, typer.Option("--yes", help="With --all-matching: do it, not only say it.")]
State = Annotated[str, typer.Option(help="held, released, release_vetoed, discarded or all.")]
Note = Annotated[str | None, typer.Option(help="A note that stays on record.")]


@app.command("list")
def list_held(
    state: State = "held",
    producer: OfProducer = None,
    reason: ForReason = None,
    batch: OfBatch = None,
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
      weir quarantine list --reason veto --json
    """
    where: dict[str, Any] = {"state": _state(state), "reason": _reason(reason), "producer": producer, "batch": batch}
    with connect(url, key_file) as client:
        found = client.quarantine(**where, label=label)
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
    ids: Ids = None,
    all_matching: AllMatching = False,
    producer: OfProducer = None,
    reason: ForReason = None,
    batch: OfBatch = None,
    limit: Limit = 100,
    yes: Yes = False,
    label: Annotated[int | None, typer.Option(help="Learn it with this label instead of its own.")] = None,
    note: Note = None,
    force: Annotated[bool, typer.Option(help="Administrators: the gate may not undo it.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Let held samples through to the model: they skip the guard, not the gate.

    With --all-matching it is all that fit, as one step of the model; without --yes it only says which these are.

    \b
    Examples:
      weir quarantine release 3f2a9c:17
      weir quarantine release 3f2a9c:17 --label 4 --note "a four, badly written"
      weir quarantine release --all-matching --producer sensor-7 --reason sample --yes
    """
    which = _which(ids, all_matching, yes, producer=producer, reason=reason, batch=batch, limit=limit)
    with connect(url, key_file) as client:
        if isinstance(which, Matching):
            answer: dict[str, Any] = {"relabel": label, "note": note, "force": force}
            return _review(client.review("release", dry_run=not yes, **which.wanted(), **answer), which, as_json)
        return each(
            which, lambda id: client.release(id, label, note=note, force=force), ("id", "state", "step"), as_json
        )


@app.command()
def discard(
    ids: Ids = None,
    all_matching: AllMatching = False,
    producer: OfProducer = None,
    reason: ForReason = None,
    batch: OfBatch = None,
    limit: Limit = 100,
    yes: Yes = False,
    note: Note = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Never learn these held samples; they stay on record.

    With --all-matching it is all that fit; without --yes it only says which these are.

    \b
    Examples:
      weir quarantine discard 3f2a9c:17 3f2a9c:18 --note "the label is wrong"
      weir quarantine discard --all-matching --producer sensor-7 --limit 500 --yes
    """
    which = _which(ids, all_matching, yes, producer=producer, reason=reason, batch=batch, limit=limit)
    with connect(url, key_file) as client:
        if isinstance(which, Matching):
            return _review(client.review("discard", dry_run=not yes, **which.wanted(), note=note), which, as_json)
        return each(which, lambda id: client.discard(id, note=note), ("id", "state", "resolved_by"), as_json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write it.")],
    state: State = "held",
    producer: OfProducer = None,
    reason: ForReason = None,
    batch: OfBatch = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
) -> None:
    """Write held samples with their data to a file, one JSON object a line.

    The file is there only once it is whole.

    \b
    Example:
      weir quarantine export held.ndjson --producer sensor-7
    """
    unfinished, count = file.with_name(f"{file.name}.part"), 0
    where: dict[str, Any] = {"state": _state(state), "producer": producer, "reason": _reason(reason), "batch": batch}
    try:
        with connect(url, key_file) as client, unfinished.open("w") as out:
            for line in client.export(**where):
                count += out.write(f"{line}\n") > 0
        unfinished.replace(file)
    except OSError as error:
        raise _unwritable(file, error) from None
    finally:
        unfinished.unlink(missing_ok=True)
    remark(f"{count} samples are in {file}.")


@dataclass(frozen=True, slots=True)
class Matching:
    """Which held samples an answer is for, and how the command said so."""

    producer: str | None
    reason: str | None
    batch: str | None
    limit: int

    def wanted(self) -> dict[str, Any]:
        """As the client asks for them."""
        return {
            "producer": self.producer,
            "reason": _reason(self.reason),
            "batch": self.batch,
            "limit": self.limit,
        }


def _which(
    ids: list[str] | None, all_matching: bool, yes: bool, limit: int, **where: str | None
) -> list[str] | Matching:
    """The ids, or the filter; raises InvalidInput for both, for neither and for a filter without --all-matching."""
    from weir.errors import InvalidInput

    given = [f"--{name}" for name, value in where.items() if value is not None]
    if all_matching and not ids:
        return Matching(where["producer"], where["reason"], where["batch"], limit)
    if ids and not all_matching and not given and not yes:
        return ids
    seen = "both ids and a filter" if ids else " ".join(given) or "nothing"
    raise InvalidInput("arguments", seen, "ids of held samples, or --all-matching with a filter such as --producer")


def _review(done: ReviewReport | Queued, which: Matching, as_json: bool) -> None:
    """Print what was done to all that fit, or what would be and how to do it."""
    from weir.client import Queued

    if isinstance(done, Queued) or as_json:
        return report(done, as_json=as_json)
    counts = {
        "producers": ", ".join(f"{name} {count}" for name, count in done.producers.items()),
        "reasons": ", ".join(f"{name} {count}" for name, count in done.reasons.items()),
    }
    did = "would be" if done.dry_run else "were"
    remark(f"{len(done.ids)} samples {did} {done.state or PAST[done.action]}.")
    if done.ids:
        card(counts, as_json=False)
        print("\n".join(done.ids))
    for refusal in done.refused:
        remark(f"weir: {refusal.id}: {refusal.detail}")
    if done.more:
        remark(f"More fit than these {which.limit}: raise --limit (at most 500), or go on with the same command after.")
    if done.dry_run and done.ids:
        remark("Nothing was done. To do it, add --yes.")
    return None


def _unwritable(file: Path, error: OSError) -> Exception:
    from weir.errors import InvalidInput

    return InvalidInput("FILE", f"{file} ({error.strerror})", "a file that can be written")


def _state(text: str) -> HeldState | None:
    from weir.stores.base import HeldState

    return None if text == "all" else _member(HeldState, "--state", text)


def _reason(text: str | None) -> Reason | None:
    from weir.types import Reason

    return None if text is None else _member(Reason, "--reason", text)


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
