"""``python -m weir.bench``: the measurements on a machine that has no web stack."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from weir.bench import grid, performance, runs, service, speed
from weir.bench.guards import GUARDS
from weir.bench.harness import Cell, Harness
from weir.bench.report import markdown
from weir.bench.scenario import SCENARIOS
from weir.bench.summary import required, summary
from weir.bench.tables import tables
from weir.bench.terms import PRESETS, Terms, changed
from weir.errors import InvalidSetting, WeirError

app = typer.Typer(help="Measurements, as ratios against a stated baseline in the same run.", no_args_is_help=True)
for command in (*speed.COMMANDS, *service.COMMANDS, performance.performance):
    app.command()(command)


@app.callback()
def main() -> None:
    """Measurements, as ratios against a stated baseline in the same run."""


@app.command()
def guard(
    out: Annotated[Path, typer.Option(help="JSON lines; runs that it holds are not made again.", dir_okay=False)],
    scenario: Annotated[str, typer.Option(help="Scenarios by name, with commas, or all.")] = "all",
    guard: Annotated[str, typer.Option(help="Guards by name, with commas, or all.")] = ",".join(grid.CORE),
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    small: Annotated[bool, typer.Option("--small", help="The fixed grid on digits, with terms of its own.")] = False,
    slice_: Annotated[str, typer.Option("--slice", help="Of --small: all, or ci for what a change must keep.")] = "all",
    dataset: Annotated[str, typer.Option(help="digits, mnist or cifar10.")] = "digits",
    data: Annotated[Path | None, typer.Option(help="Folder with mnist-train.parquet, cifar10-train.parquet.")] = None,
    model: Annotated[str | None, typer.Option(help="mlp, cnn, resnet18 or package.module:factory.")] = None,
    options: Annotated[str | None, typer.Option(help="The model's options as JSON.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="L-infinity budget of crafted samples.")] = None,
    fraction: Annotated[float | None, typer.Option(help="Hostile share of a batch; unset: the scenario's own.")] = None,
    penalty: Annotated[float | None, typer.Option(help="What a guard-aware attack pays for suspicion.", min=0)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate on the stream.")] = None,
    norm: Annotated[str | None, typer.Option(help="Batch-norm statistics on the stream: frozen or train.")] = None,
    attack: Annotated[int | None, typer.Option(help="Batches of an attack.", min=1)] = None,
    attack_steps: Annotated[int | None, typer.Option(help="Sign steps of crafting a batch.", min=1)] = None,
    strikes: Annotated[int | None, typer.Option(help="Trigger batches.", min=1)] = None,
    burn_in_epochs: Annotated[int | None, typer.Option(help="Passes of burn-in.", min=1)] = None,
    burn_in_lr: Annotated[float | None, typer.Option(help="Peak learning rate of burn-in.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any term, as name=value; repeatable.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch, in each process.", min=1)] = 1,
    jobs: Annotated[int, typer.Option(help="Processes that share the streams.", min=1)] = 1,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded data and burned-in models.")] = None,
) -> None:
    """Scenario by guard by seed, a JSON object each; the cheapest first."""
    torch.set_num_threads(threads)
    given = {
        "model": model,
        "options": json.loads(options) if options else ({} if model else None),
        "epsilon": epsilon,
        "fraction": fraction,
        "penalty": penalty,
        "lr": lr,
        "norm_mode": norm,
        "attack": attack,
        "attack_steps": attack_steps,
        "strikes": strikes,
        "burn_in_epochs": burn_in_epochs,
        "burn_in_lr": burn_in_lr,
        "device": device,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    wanted = (_names(scenario, SCENARIOS), _names(guard, GUARDS), [int(seed) for seed in seeds.split(",")])
    with _explained():
        if small:
            cells = _fixed(slice_, wanted, [*chosen, *(settings or [])])
        else:
            cells = list(grid.product(*wanted, _terms(dataset, chosen, settings or [])))
        with typer.progressbar(length=len(cells), label="runs") as bar:
            runs.run(grid.ordered(cells), out, Harness(data, cache), jobs=jobs, progress=bar.update)


@app.command()
def report(
    files: Annotated[list[Path], typer.Argument(help="JSON lines of weir bench guard.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="Markdown file; pictures go beside it.", dir_okay=False)],
    require: Annotated[
        str | None, typer.Option(help="Bars to meet, as scenario:guard with commas (all:weir); else exit 1.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every bar to this file.")] = None,
) -> None:
    """Tables with the bars, and pictures where matplotlib is installed."""
    with _explained():
        requirements = required(require) if require else []
    rows = list(runs.rows(files))
    made = tables(rows)
    out.write_text("\n".join([markdown(rows), *_pictures(rows, out)]))
    if json_file:
        json_file.write_text(json.dumps(summary(made), indent=2) + "\n")
    typer.echo(f"{out}: {len(rows)} runs")
    missed = [line for requirement in requirements for line in requirement.missed(made)]
    for line in missed:
        typer.echo(line, err=True)
    if missed:
        raise typer.Exit(1)


def _pictures(rows: Sequence[dict[str, Any]], out: Path) -> list[str]:
    """Draws what matplotlib, where it is installed, can show, and gives the lines that show it."""
    if not importlib.util.find_spec("matplotlib"):
        return []
    from weir.bench import plots

    lines = []
    for name, draw in plots.PICTURES.items():
        picture = out.with_name(f"{out.stem}-{name}.png")
        draw(rows, picture)
        lines.append(f"![{name}]({picture.name})\n")
    return lines


def _fixed(part: str, wanted: tuple[list[str], list[str], list[int]], others: Sequence[str]) -> list[Cell]:
    if others:
        raise InvalidSetting("small", ", ".join(others), "no terms beside it: the grid has its own")
    if part not in ("all", "ci"):
        raise InvalidSetting("slice", part, "all or ci")
    return grid.ci() if part == "ci" else grid.small(*wanted)


def _terms(dataset: str, chosen: dict[str, Any], settings: Sequence[str]) -> Terms:
    if dataset not in PRESETS:
        raise InvalidSetting("dataset", dataset, ", ".join(PRESETS))
    return changed(replace(PRESETS[dataset], **chosen), settings)


def _names(wanted: str, known: Iterable[str]) -> list[str]:
    return list(known) if wanted == "all" else wanted.split(",")


@contextmanager
def _explained() -> Iterator[None]:
    """What a user got wrong, in a line."""
    try:
        yield
    except WeirError as error:
        raise typer.BadParameter(str(error)) from None


if __name__ == "__main__":
    app()
