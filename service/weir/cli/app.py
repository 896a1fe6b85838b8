"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

import weir
from weir.cli import (
    bench,
    burnin,
    checkpoints,
    dead_letters,
    demo,
    erase,
    keys,
    probe,
    quarantine,
    redteam,
    replay,
    serve,
    stream,
)

_ABOUT = """An online-learning service that guards what it learns from.

\b
First steps:
  weir demo                                           see an attack held back
  weir burnin digits --samples 1000 --rest rest.npz   train a first model
  weir serve                                          start the service
  weir stream rest.npz                                send it unseen samples

Every setting is a WEIR_ variable or a line of weir.toml. Commands that speak to a running service find it by --url or \
WEIR_URL, and take their API key from WEIR_KEY or --key-file."""

app = typer.Typer(
    help=_ABOUT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(burnin.burnin)
app.command()(serve.serve)
app.command()(stream.stream)
app.command()(redteam.redteam)
app.command()(checkpoints.rollback)
app.add_typer(replay.app, name="replay")
app.command()(erase.erase)
app.add_typer(quarantine.app, name="quarantine", help="Review what the guard holds back.")
app.add_typer(checkpoints.app, name="checkpoints", help="Save the model, and see what was saved.")
app.add_typer(dead_letters.app, name="dead-letters", help="Deliveries that could not be processed.")
app.add_typer(probe.app, name="probe", help="The trusted samples that the guard is calibrated on.")
app.add_typer(keys.app, name="keys", help="API keys of a data folder.")
app.command(context_settings=bench.FORWARDED)(bench.bench)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"weir {weir.__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")]


@app.callback()
def _options(version: Version = False) -> None:
    pass
