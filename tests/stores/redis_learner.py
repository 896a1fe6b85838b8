"""A process that owns a log until it is told to stop, and records a decision for every line it reads."""

from __future__ import annotations

import sys

from weir.errors import WeirError
from weir.stores.base import Cursor, Decision
from weir.stores.redis import Redis


def main(url: str, prefix: str, lease_seconds: str) -> None:
    with Redis(url, prefix=prefix, lease_seconds=float(lease_seconds)) as stores, stores.owned():
        sys.stdout.write("owned\n")
        sys.stdout.flush()
        for line in sys.stdin:
            position = int(line)
            try:
                stores.journal.record(Decision(1, Cursor(position), Cursor(position + 1), command="old"))
                sys.stdout.write("recorded\n")
            except WeirError as error:
                sys.stdout.write(f"{type(error).__name__}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
