"""The commands that measure the machine that learns: no web stack is needed for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from weir.bench import overhead as of_overhead
from weir.bench import published as of_published
from weir.bench import ranks as of_ranks
from weir.bench import scaling as of_scaling

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]


def overhead(
    model: Annotated[str, typer.Option(help="resnet18 or cnn.")] = of_overhead.Plan.model,
    width: Annotated[int, typer.Option(help="Width of the model.", min=1)] = of_overhead.Plan.width,
    norm: Annotated[str, typer.Option(help="resnet18: batch, group or none.")] = of_overhead.Plan.norm,
    freeze_norm: Annotated[bool, typer.Option(help="Keep batch-norm statistics.")] = of_overhead.Plan.freeze_norm,
    batch: Annotated[int, typer.Option(help="Samples per update.", min=2)] = of_overhead.Plan.batch,
    producers: Annotated[int, typer.Option(help="Who sends the samples, in turn.", min=1)] = of_overhead.Plan.producers,
    probe: Annotated[int, typer.Option(help="Samples in the probe set.", min=400)] = of_overhead.Plan.probe,
    rounds: Annotated[int, typer.Option(help="Counted rounds.", min=1)] = of_overhead.Plan.rounds,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = of_overhead.Plan.device,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = of_overhead.Plan.threads,
    seed: Annotated[int, typer.Option(help="Seed of the traffic.")] = of_overhead.Plan.seed,
    float32: Annotated[
        bool, typer.Option(help="Also with anchor and glances in float32, where by default they may be in bfloat16.")
    ] = of_overhead.Plan.float32,
    json_file: JsonFile = None,
) -> None:
    """Guarded against plain updates on clean traffic, in the default configuration.

    Every round updates each subject once on the same batch. The ratio is of all rounds, so that what is done now and
    then (a test of the gate, more of the probe set) is in it.
    """
    plan = of_overhead.Plan(
        model=model,
        width=width,
        norm=norm,
        freeze_norm=freeze_norm,
        batch=batch,
        producers=producers,
        probe=probe,
        rounds=rounds,
        device=device,
        threads=threads,
        seed=seed,
        float32=float32,
    )
    with typer.progressbar(length=plan.warmup + plan.rounds, label="rounds") as bar:
        result = of_overhead.measure(plan, progress=lambda _: bar.update(1))
    _tell(of_overhead.table(result), result, json_file)


def published(
    model: Annotated[str, typer.Option(help="resnet18 or cnn.")] = of_published.Plan.model,
    width: Annotated[int, typer.Option(help="Width of the model.", min=1)] = of_published.Plan.width,
    batch: Annotated[int, typer.Option(help="Samples per step.", min=2)] = of_published.Plan.batch,
    probe: Annotated[int, typer.Option(help="Samples in the probe set.", min=400)] = of_published.Plan.probe,
    rounds: Annotated[int, typer.Option(help="Counted rounds.", min=1)] = of_published.Plan.rounds,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = of_published.Plan.device,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = of_published.Plan.threads,
    json_file: JsonFile = None,
) -> None:
    """Guarded steps against the published rule, as it was released and rewritten with care."""
    plan = of_published.Plan(
        model=model, width=width, batch=batch, probe=probe, rounds=rounds, device=device, threads=threads
    )
    with typer.progressbar(length=of_published.rounds(plan), label="rounds") as bar:
        result = of_published.measure(plan, progress=lambda _: bar.update(1))
    _tell(of_published.table(result), result, json_file)


def ranks(
    model: Annotated[str, typer.Option(help="resnet18 or cnn.")] = of_ranks.Plan.model,
    width: Annotated[int, typer.Option(help="Width of the model.", min=1)] = of_ranks.Plan.width,
    step: Annotated[int, typer.Option(help="Samples per step; weak scaling: each rank.", min=1)] = of_ranks.Plan.step,
    probe: Annotated[int, typer.Option(help="Samples in the probe set.", min=400)] = of_ranks.Plan.probe,
    groups: Annotated[str, typer.Option("--ranks", help="Numbers of ranks, with commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="Counted steps.", min=1)] = of_ranks.Plan.rounds,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = of_ranks.Plan.device,
    threads: Annotated[int, typer.Option(help="Threads of torch, in each rank.", min=1)] = of_ranks.Plan.threads,
    json_file: JsonFile = None,
) -> None:
    """Steps shared out among ranks that torchrun starts here: strong scaling, then weak."""
    numbers = tuple(int(number) for number in groups.split(","))
    plan = of_ranks.Plan(
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
        result = of_ranks.measure(plan, progress=lambda: bar.update(1))
    _tell(of_ranks.table(result), result, json_file)


def scaling(
    model: Annotated[str, typer.Option(help="resnet18 or cnn.")] = of_scaling.Plan.model,
    width: Annotated[int, typer.Option(help="Width of the model.", min=1)] = of_scaling.Plan.width,
    step: Annotated[int, typer.Option(help="Samples per step.", min=1)] = of_scaling.Plan.step,
    probe: Annotated[int, typer.Option(help="Samples in the probe set.", min=400)] = of_scaling.Plan.probe,
    json_file: JsonFile = None,
) -> None:
    """A model of 1 to 64 GPUs: what a step spends where, and which part gives out first."""
    torch.set_num_threads(1)
    result = of_scaling.model(of_scaling.Plan(model=model, width=width, step=step, probe=probe))
    _tell(of_scaling.table(result), result, json_file)


def _tell(shown: str, result: dict[str, Any], json_file: Path | None) -> None:
    typer.echo(shown)
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


COMMANDS: tuple[Callable[..., None], ...] = (overhead, published, ranks, scaling)
