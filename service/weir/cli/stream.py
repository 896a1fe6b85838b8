"""``weir stream``: a data set sent as a stream of batches, each taken exactly once even when it is interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated

import typer

from weir.cli.burnin import DataSet
from weir.cli.output import bar, card, remark
from weir.cli.remote import DEFAULT_URL, AsJson, KeyFile, Url, connect

if TYPE_CHECKING:
    from torch import Tensor

    from weir.client import Client

PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass over rows of a data set, as the state file holds it; rows before ``row`` are acknowledged.

    The idempotency key of a batch names the pass, the content and the rows. A batch whose acknowledgement was lost is
    sent again under the same key and so taken once; another pass over the same rows is a delivery of its own.
    """

    id: str
    digest: str
    url: str
    batch: int
    row: int
    end: int

    def key(self, start: int, stop: int) -> str:
        """The idempotency key of the rows from ``start`` to before ``stop``."""
        return f"{self.id}-{self.digest[:16]}-{start}-{stop}"


def stream(
    dataset: DataSet,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 100,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Samples per second, at most.")] = None,
    skip: Annotated[int, typer.Option(min=0, help="Leave out so many samples from the front.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Send so many samples, at most.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on, as it began, where a pass stopped.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget a pass that stopped, and begin anew.")] = False,
    state: Annotated[Path | None, typer.Option(help="State file (else beside the data set).")] = None,
    producer: Annotated[str | None, typer.Option(help="Name of the producer, for a service without keys.")] = None,
    settle: Annotated[float, typer.Option(min=0, help="Seconds to wait for the last verdicts.")] = 60.0,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Send a data set as a stream of batches, and sum up the verdicts.

    After Ctrl-C or a lost connection it goes on with --resume, and no sample is taken twice.

    \b
    Examples:
      weir stream rest.npz
      weir stream train.parquet --batch 256 --rate 500
      weir stream train.parquet --resume
    """
    from weir import datasets

    rows = datasets.rows(dataset)
    end = rows if limit is None else min(rows, skip + limit)
    fresh = Pass(id=secrets.token_hex(8), digest=_digest(dataset), url=url, batch=batch, row=skip, end=end)
    file = state or Path(f"{dataset}.weir-stream")
    current = _opened(file, fresh, resume=resume, restart=restart)
    with connect(url, key_file, producer=producer, patience=PATIENCE_SECONDS) as client:
        ids = _send(client, dataset, current, file, rate)
        card(_verdicts(client, ids, settle), as_json=as_json)


def _send(client: Client, dataset: str, current: Pass, file: Path, rate: float | None) -> list[str]:
    """Send what is left of a pass; returns the batches' ids. The state file goes away with the last of them."""
    ids: list[str] = []
    began = monotonic()
    try:
        with bar("sent", current.end - current.row) as advance:
            for start, stop, x, y in _portions(dataset, current):
                if rate is not None:
                    sleep(max(0.0, began + (start - current.row) / rate - monotonic()))
                ids.append(client.send(x, y, idempotency_key=current.key(start, stop)).id)
                _keep(file, dataclasses.replace(current, row=stop))
                advance(stop - start)
    except BaseException:
        remark(f"Stopped after {len(ids)} batches; to go on: weir stream {dataset} --resume")
        raise
    file.unlink()
    return ids


def _portions(dataset: str, current: Pass) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """The batches from the pass's row to its end, with their rows: the same ones on every try."""
    from weir import datasets

    row = 0
    for part in datasets.batches(dataset, current.batch, current.end):
        start, stop = max(row, current.row), row + len(part)
        if start < stop:
            yield start, stop, part.x[start - row :], part.y[start - row :]
        row = stop


def _verdicts(client: Client, ids: Sequence[str], settle: float) -> dict[str, int]:
    """How many samples got each verdict, as far as they are known within ``settle`` seconds."""
    totals = Counter(samples=0, accept=0, correct=0, quarantine=0, pending=0)
    deadline = monotonic() + settle
    with bar("decided", len(ids)) as advance:
        for id in ids:
            report = client.batch(id)
            while report.counts.pending and monotonic() < deadline:
                sleep(POLL_SECONDS)
                report = client.batch(id)
            totals.update(dataclasses.asdict(report.counts), samples=report.samples)
            advance(1)
    return {"batches": len(ids), **totals}


def _opened(file: Path, fresh: Pass, *, resume: bool, restart: bool) -> Pass:
    """The pass to send: the one in the state file, or a new one, which is kept before anything is sent."""
    from weir.errors import Conflict, InvalidInput

    kept = None if restart or not file.exists() else _kept(file)
    if not resume:
        if kept is not None:
            raise Conflict(
                f"{file}: a pass stopped at row {kept.row}: go on with --resume, or begin anew with --restart"
            )
        _keep(file, fresh)
        return fresh
    if kept is None:
        raise InvalidInput("--resume", f"no state in {file}", "a pass that stopped on its way; start one without it")
    if (kept.digest, kept.url) != (fresh.digest, fresh.url):
        raise InvalidInput("--resume", "another data set or service", f"those that {file} began with ({kept.url})")
    return kept


def _kept(file: Path) -> Pass:
    from weir.errors import InvalidInput

    try:
        return Pass(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput("--state", f"{file} ({error})", "a state file; begin anew with --restart") from None


def _keep(file: Path, current: Pass) -> None:
    """Replace the state file whole; if the machine dies first, older rows are sent again under their own keys."""
    from weir.errors import InvalidInput

    unfinished = file.with_name(f"{file.name}.new")
    try:
        unfinished.write_text(json.dumps(dataclasses.asdict(current)))
        os.replace(unfinished, file)
    except OSError as error:
        raise InvalidInput("--state", f"{file} ({error.strerror})", "a file that can be written") from None


def _digest(dataset: str) -> str:
    """SHA-256 of a data set's file, or of a bundled one's name."""
    path = Path(dataset)
    if not path.is_file():
        return hashlib.sha256(dataset.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
