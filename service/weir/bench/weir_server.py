"""``weir serve`` as a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from weir.errors import ServiceUnavailable

WEIR = (sys.executable, "-m", "weir")
_LISTENS = "listening on "
_PATIENCE = 60.0  # seconds
_PAUSE = 0.005  # between two looks at it


@contextmanager
def running(settings: Mapping[str, object]) -> Iterator[str]:
    """The service with these settings, by name, on a free port and ready: gives its address.

    Raises ServiceUnavailable, with the end of its log, when it does not get there.
    """
    chosen = {f"WEIR_{name.upper()}": str(value) for name, value in {**settings, "port": 0}.items()}
    with (
        tempfile.TemporaryFile("a+") as log,  # appended to: both processes share where it is read
        subprocess.Popen(
            [*WEIR, "serve"], env={**os.environ, **chosen}, stdout=subprocess.DEVNULL, stderr=log
        ) as process,
    ):
        try:
            yield _ready(process, log, time.monotonic() + _PATIENCE)
        finally:
            process.kill()


def _ready(process: subprocess.Popen[bytes], log: IO[str], deadline: float) -> str:
    """Its address, when ``/health/ready`` answers 200 there."""
    import httpx  # not at the top: whoever measures without a web stack loads this module's neighbours

    with httpx.Client(trust_env=False, timeout=_PATIENCE) as client:
        while process.poll() is None and time.monotonic() < deadline:
            address = _address(log)
            if address and client.get(f"{address}/health/ready").status_code == 200:
                return address
            time.sleep(_PAUSE)
    log.seek(0)
    raise ServiceUnavailable(f"weir serve ended, or was not ready within {_PATIENCE:g} s:\n{log.read()[-2000:]}")


def _address(log: IO[str]) -> str | None:
    log.seek(0)
    _, found, rest = log.read().partition(_LISTENS)
    words = rest.split(maxsplit=1)
    return words[0] if found and len(words) > 1 else None
