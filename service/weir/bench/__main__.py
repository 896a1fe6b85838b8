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

from weir.bench import grid, ranks, runs, scaling, service
from weir.bench.guards import GUARDS
from weir.bench.harness import Cell, Harness
from weir.bench.overhead import Plan, measure, table
from weir.bench.report import markdown
from weir.bench.scenario import SCENARIOS
from weir.bench.summary import required, summary
from weir.bench.tables import tables
from weir.bench.terms import PRESETS, Terms, changed
from weir.errors import InvalidSetting, WeirError

app = typer.Typer(help="Measurements, as ratios against a stated baseline in the same run.", no_args_is_help=True)
app.command()(service.ingest)
app.command()(service.predict)
app.command()(service.startup)


@app.callback()
def main() -> None:
    """Measurements, as ratios against a stated baseline in the same run."""


@app.command()
def overhead(
    model: Annotated[str, typer.Option(help="resnet18 or cnn.")] = Plan.model,
    width: Annotated[int, typer.Option(help="Width of the model.", min=1)] = Plan.width,
    norm: Annotated[str, typer.Option(help="resnet18: batch, group or none.")] = Plan.norm,
    batch: Annotated[int, typer.Option(help="Samples per update.", min=2)] = Plan.batch,
    probe: Annotated[int, typer.Option(help="Samples in the probe set.", min=400)] = Plan.probe,
    rounds: Annotated[int, typer.Option(help="Counted rounds.", min=1)] = Plan.rounds,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = Plan.device,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = Plan.threads,
    seed: Annotated[int, typer.Option(help="Seed of the traffic.")] = Plan.seed,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Guarded against unguarded updates on clean traffic, in the default configuration.

    Every round updates each engine once on the same batch; the ratio is taken within the round.
    """
    plan = Plan(
        model=model,
        width=width,
        norm=norm,
        batch=batch,
        probe=probe,
        rounds=rounds,
        device=device,
        threads=threads,
        seed=seed,
    )
    with typer.progressbar(length=plan.warmup + plan.rounds, label="rounds") as bar:
        result = measure(plan, progress=lambda _: bar.update(1))
    _tell(table(result), result, json_file)


@app.command("ranks")
def measure_ranks(
    model: Annotated[str, typer.Option(help="resnet18 or cnn.")] = ranks.Plan.model,
    width: Annotated[int, typer.Option(help="Width of the model.", min=1)] = ranks.Plan.width,
    step: Annotated[int, typer.Option(help="Samples per step; weak scaling: for each rank.", min=1)] = ranks.Plan.step,
    probe: Annotated[int, typer.Option(help="Samples in the probe set.", min=400)] = ranks.Plan.probe,
    groups: Annotated[str, typer.Option("--ranks", help="Numbers of ranks, with commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="Counted steps.", min=1)] = ranks.Plan.rounds,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = ranks.Plan.device,
    threads: Annotated[int, typer.Option(help="Threads of torch, in each rank.", min=1)] = ranks.Plan.threads,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Steps shared out among ranks that torchrun starts here: strong scaling, then weak."""
    numbers = tuple(int(number) for number in groups.split(","))
    plan = ranks.Plan(
        model=model,
        width=width,
        step=step,
        probe=probe,
        ranks=numbers,
        rounds=rounds,
        device=device,
        threads=threads,
    )
    with typer.progressbar(length=2 * len(numbers), label="groups") as bar:
        result = ranks.measure(plan, progress=lambda: bar.update(1))
    _tell(ranks.table(result), result, json_file)


@app.command("scaling")
def model_scaling(
    model: Annotated[str, typer.Option(help="resnet18 or cnn.")] = scaling.Plan.model,
    width: Annotated[int, typer.Option(help="Width of the model.", min=1)] = scaling.Plan.width,
    step: Annotated[int, typer.Option(help="Samples per step.", min=1)] = scaling.Plan.step,
    probe: Annotated[int, typer.Option(help="Samples in the probe set.", min=400)] = scaling.Plan.probe,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """A model of 1 to 64 GPUs: what a step spends where, and which part gives out first."""
    torch.set_num_threads(1)
    result = scaling.model(scaling.Plan(model=model, width=width, step=step, probe=probe))
    _tell(scaling.table(result), result, json_file)


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


def _tell(shown: str, result: dict[str, Any], json_file: Path | None) -> None:
    typer.echo(shown)
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


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
