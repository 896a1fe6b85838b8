"""``weir bench``: the measurements, which have a command line of their own for machines without a web stack."""

from __future__ import annotations

import typer

FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def bench(context: typer.Context) -> None:
    """Measure what guarding costs: see weir bench --help."""
    from weir.bench.__main__ import app

    app(args=context.args, prog_name="weir bench")
