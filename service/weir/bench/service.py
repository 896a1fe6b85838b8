"""The commands that measure a running service; they load the web stack when they run, and only then."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from weir.errors import InvalidSetting

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
Rounds = Annotated[int, typer.Option(help="Counted rounds.", min=1)]
Seconds = Annotated[float, typer.Option(help="Of one measurement in a round.", min=0.05)]


def ingest(
    batch: Annotated[int, typer.Option(help="Samples per batch.", min=1)] = 100,
    rounds: Rounds = 3,
    seconds: Seconds = 1.2,
    place: Annotated[Path | None, typer.Option(help="A folder on the disk to measure.", file_okay=False)] = None,
    json_file: JsonFile = None,
) -> None:
    """Taking batches: against a service written by hand, a bare server, a bare socket and a bare disk.

    Nothing is learned meanwhile, but in the row that waits for verdicts. All servers share a core, the client has
    another one.
    """
    from weir.bench import ingest as bench

    plan = bench.Plan(batch=batch, rounds=rounds, seconds=seconds, place=str(place or tempfile.gettempdir()))
    with _explained(), typer.progressbar(length=rounds + 1, label="rounds") as bar:
        result = bench.measure(plan, progress=lambda _: bar.update(1))
    _told(bench.table(result), result, json_file)


def predict(
    rounds: Rounds = 3,
    seconds: Seconds = 1.0,
    waiting: Annotated[int, typer.Option(help="Batches of 100 samples that the learner has before it.", min=1)] = 2000,
    json_file: JsonFile = None,
) -> None:
    """Predictions while nothing is learned, and while the learner is busy with a log that was filled before.

    By one process that does both and, where a Redis server is installed, by a replica beside a learner.
    """
    from weir.bench import predict as bench

    plan = bench.Plan(rounds=rounds, seconds=seconds, waiting=waiting)
    with _explained(), typer.progressbar(length=2 * len(plan.roles) * rounds, label="starts") as bar:
        result = bench.measure(plan, progress=lambda _: bar.update(1))
    _told(bench.table(result), result, json_file)


def startup(rounds: Rounds = 4, json_file: JsonFile = None) -> None:
    """The seconds until weir --help has answered, and until weir serve is ready with a model."""
    from weir.bench import startup as bench

    plan = bench.Plan(rounds=rounds)
    with typer.progressbar(length=plan.warmup + rounds, label="rounds") as bar:
        result = bench.measure(plan, progress=lambda _: bar.update(1))
    _told(bench.table(result), result, json_file)


def growth(
    batches: Annotated[int, typer.Option(help="Batches through one engine; 0: none.", min=0)] = 100_000,
    known: Annotated[int, typer.Option(help="Producers that another engine hears of; 0: none.", min=0)] = 10_000,
    rows: Annotated[int, typer.Option(help="Deliveries that wait in the longest inbox; 0: none.", min=0)] = 1_000_000,
    tries: Annotated[int, typer.Option(help="Times that each thing is measured at each size.", min=1)] = 200,
    place: Annotated[Path | None, typer.Option(help="A folder on the disk to measure.", file_okay=False)] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the traffic.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """What time and size add to the cost: a step after many batches, and with many producers; a long inbox.

    Inboxes are filled with relaxed durability, on SQLite and, where it is installed, a Redis server of its own.
    Where matplotlib is installed, a picture of the same name goes beside the figures. What is left out stays as it was
    in their file, so that a long run may be made in pieces.
    """
    from weir.bench import aging
    from weir.bench import growth as bench

    where = str(place or tempfile.gettempdir())
    plan = aging.Plan(batches=batches, known=known, rows=rows, tries=tries, place=where, threads=threads, seed=seed)
    with _explained():
        before = bench.earlier(json_file, plan) if json_file else None
    with typer.progressbar(length=plan.beats, label="batches") as bar:
        result = bench.measure(plan, progress=bar.update)
    if before:
        result = bench.joined(result, before)
    _told(bench.table(result), result, json_file)
    if json_file and importlib.util.find_spec("matplotlib"):
        from weir.bench import plots

        plots.growth(result["rows"], json_file.with_suffix(".png"))


@contextmanager
def _explained() -> Iterator[None]:
    """What a user got wrong, in a line."""
    try:
        yield
    except InvalidSetting as error:
        raise typer.BadParameter(str(error)) from None


def _told(table: str, result: Mapping[str, Any], json_file: Path | None) -> None:
    typer.echo(table)
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


COMMANDS: tuple[Callable[..., None], ...] = (ingest, predict, startup, growth)
