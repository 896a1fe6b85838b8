"""``python -m weir.bench``: the measurements on a machine that has no web stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from weir.bench.overhead import Plan, measure, table

app = typer.Typer(help="Measurements, as ratios against a stated baseline in the same run.", no_args_is_help=True)


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
    typer.echo(table(result))
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    app()
