"""``weir burnin`` and ``weir probe split``: from a data set to a first checkpoint, and to a probe set."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.cli.output import AsJson, card, remark

if TYPE_CHECKING:
    from weir.core import BurnIn
    from weir.datasets import Dataset
    from weir.types import InputSpec

DataSet = Annotated[str, typer.Argument(help="digits, breast_cancer, or a .parquet or .npz file.")]


def burnin(
    dataset: DataSet,
    samples: Annotated[int | None, typer.Option(min=1, help="Use only so many, drawn at random.")] = None,
    rest: Annotated[Path | None, typer.Option(help="Where the others go (.npz): unseen, for the stream.")] = None,
    probe: Annotated[
        Path | None, typer.Option(help="Trusted samples (.npz, .parquet); else split off the data set.")
    ] = None,
    probe_size: Annotated[int, typer.Option(min=1, help="Samples split off when no probe set is given.")] = 500,
    model: Annotated[
        str | None, typer.Option(help="mlp, cnn, resnet18 or package.module:factory; else by the shape of x.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="A model option, name=value; repeat for more.")] = None,
    categorical: Annotated[
        list[int] | None, typer.Option(help="A feature (its index) that correction must never move; repeat for more.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the samples.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples per update.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 penalty.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder to make (else WEIR_DATA, else weir-data).")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the model that the stream starts from, and write checkpoint 0.

    The probe set is never trained on. Without --probe it is split off the data set, with every class in its share.
    Rows of plain numbers are standardised, feature by feature, before the model sees them, here and in the stream.

    \b
    Examples:
      weir burnin digits --samples 1000 --rest rest.npz
      weir burnin train.parquet --probe trusted.npz --model resnet18 --option width=16 --epochs 14
      weir burnin train.npz --model mypackage.models:build
    """
    import torch

    from weir import config, datasets, folder
    from weir.core import burn_in
    from weir.core.probe import ProbeSet
    from weir.errors import Conflict
    from weir.trainer import initialise
    from weir.types import Recipe

    settings = config.load(**({"data": data} if data else {}))
    torch.set_num_threads(settings.threads)
    plan = _plan(epochs=epochs, batch=batch, lr=lr, momentum=momentum, weight_decay=weight_decay)
    seed = settings.engine().seed
    chosen = _drawn(datasets.load(dataset), samples, rest, seed)
    with folder.owned(settings.data), folder.stores(settings) as stores:
        if stores.checkpoints.all():
            raise Conflict(f"{settings.data} holds a model already: name another folder with --data, or move it away")
        trusted, training = (datasets.load(probe), chosen) if probe else _split(chosen, probe_size, seed)
        recipe = Recipe(_model(training, model), _inputs(training, categorical or []), dict(map(_option, option or [])))
        source, at = probe.name if probe else "split", time.time()
        ProbeSet(trusted.x, trusted.y, created_at=at, source=source).check(recipe.inputs, settings.engine().guard)
        with _progress(plan.epochs) as progress:
            engine = burn_in(recipe, settings.engine(), training.x, training.y, plan=plan, progress=progress)
        engine.set_probe(trusted.x, trusted.y, created_at=at, source=source)
        info = initialise(stores, engine, at=time.time())
        if datasets.is_bundled(dataset):
            folder.label_example(settings.data, dataset)
    card(
        {
            "checkpoint": info.id,
            "folder": str(settings.data),
            "model": recipe.model,
            "parameters": engine.parameters,
            "burn_in_samples": len(training),
            "probe_samples": len(trusted),
            "probe_accuracy": engine.probe_accuracy(),
            "armed": engine.unarmed_because is None,
        },
        as_json=as_json,
    )
    remark("Next: weir serve" + (f", and then weir stream {rest}" if rest else ""))


def split(
    dataset: DataSet,
    out: Annotated[Path, typer.Option(help="Where the probe set goes (.npz).")],
    rest: Annotated[Path, typer.Option(help="Where all other samples go (.npz): burn in on these.")],
    size: Annotated[int, typer.Option(min=1, help="Samples in the probe set.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another selection.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Split a probe set off a data set, with every class in its share.

    \b
    Example:
      weir probe split train.parquet --out trusted.npz --rest train.npz --size 1000
      weir burnin train.npz --probe trusted.npz
    """
    from weir import datasets

    trusted, others = _split(datasets.load(dataset), size, seed)
    _save(out, trusted)
    _save(rest, others)
    per_class = trusted.y.bincount(minlength=trusted.classes).tolist()
    card({"probe": str(out), "samples": len(trusted), "per_class": per_class, "rest": len(others)}, as_json=as_json)


def _drawn(data: Dataset, samples: int | None, rest: Path | None, seed: int) -> Dataset:
    """So many samples at random, or all; the others go to the file ``rest``."""
    from weir.errors import InvalidInput

    left = len(data) - (samples or len(data))
    if left < 0:
        raise InvalidInput("--samples", samples, f"at most the {len(data)} samples there are")
    if rest and not left:
        raise InvalidInput("--rest", rest, "--samples beside it: without it no sample is left")
    chosen, others = data.split(len(data) - left, left, seed=seed)
    if rest:
        _save(rest, others)
    return chosen


def _split(data: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    """A stratified probe set, and everything else in its order."""
    import torch

    from weir.core.probe import LEAST_PER_CLASS
    from weir.datasets import stratified
    from weir.errors import InvalidInput

    if size >= len(data):
        raise InvalidInput("--probe-size", size, f"less than the {len(data)} samples there are")
    chosen = stratified(data.y, size, seed, minimum=LEAST_PER_CLASS)
    others = torch.ones(len(data), dtype=torch.bool)
    others[chosen] = False
    return data.select(chosen), data.select(others.nonzero()[:, 0])


def _save(path: Path, part: Dataset) -> None:
    import numpy as np

    from weir.errors import InvalidInput

    try:
        with path.open("wb") as file:
            np.savez(file, x=part.x.numpy(), y=part.y.numpy())
    except OSError as error:
        raise InvalidInput(str(path), error.strerror, "a file that can be written") from None


def _model(data: Dataset, named: str | None) -> str:
    return named or ("cnn" if data.x.ndim == 4 else "mlp")


def _inputs(data: Dataset, categorical: list[int]) -> InputSpec:
    """What the model is to take: images keep to [0, 1], rows of plain numbers are standardised as they are here."""
    from weir.errors import InvalidInput
    from weir.types import InputSpec

    shape = tuple(data.x.shape[1:])
    features = data.x[0].numel()
    for feature in categorical:
        if not 0 <= feature < features:
            raise InvalidInput("--categorical", feature, f"the index of a feature, 0 to {features - 1}")
    unit = not data.x.is_floating_point() or (float(data.x.min()) >= 0 and float(data.x.max()) <= 1)
    if unit:
        return InputSpec(shape, data.classes, 0.0, 1.0, tuple(categorical))
    rows = data.x.flatten(1).double()
    spread = rows.std(0)
    spread[spread == 0] = 1.0
    center, scale = tuple(rows.mean(0).tolist()), tuple(spread.tolist())
    return InputSpec(shape, data.classes, None, None, tuple(categorical), center, scale)


def _option(text: str) -> tuple[str, Any]:
    from weir.errors import InvalidInput

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidInput("--option", repr(text), "name=value, such as width=16")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _plan(**given: float | None) -> BurnIn:
    from weir.core import BurnIn

    return BurnIn(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


@contextmanager
def _progress(epochs: int) -> Iterator[Callable[[int, int, float], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("burn-in", total=epochs)

        def advance(epoch: int, _: int, loss: float) -> None:
            bar.update(task, completed=epoch, description=f"burn-in, loss {loss:.3g}")

        yield advance
