"""The command line. Every command imports what it runs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from weir.cli.app import app
from weir.errors import InvalidInput, InvalidSettings, WeirError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 for input that does not fit, 130 interrupted."""
    try:
        app(args=arguments, prog_name="weir")
    except WeirError as error:
        print(f"weir: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, (InvalidInput, InvalidSettings)) else 1)
