"""A Redis server of a measurement's own: on a socket in its folder, with an append-only file."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weir.errors import ServiceUnavailable

_PATIENCE = 60.0  # seconds


def missing() -> str | None:
    """What it cannot be started or spoken to without, in words; None when all of it is there."""
    if shutil.which("redis-server") is None:
        return "the program redis-server is not on the PATH"
    if importlib.util.find_spec("redis") is None:
        return "the library redis is not installed"
    return None


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """The server; gives its socket. Raises ServiceUnavailable when it does not start."""
    socket = folder / "redis.sock"
    settings = {"port": "0", "unixsocket": str(socket), "dir": str(folder), "logfile": "redis.log"}
    settings |= {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(["redis-server", *options])
    try:
        deadline = time.monotonic() + _PATIENCE
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceUnavailable(f"redis-server does not start: {(folder / 'redis.log').read_text()}")
            time.sleep(0.02)
        yield socket
    finally:
        process.terminate()
        process.wait()
