"""A Redis server of the tests' own: on a unix socket in a temporary folder, never the default port."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}


class RedisServer:
    """A ``redis-server`` that a test may kill, and start again over the same files."""

    def __init__(self, folder: Path, settings: Mapping[str, str], program: Sequence[str]) -> None:
        self._folder = folder
        self._settings = settings
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self._folder / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        places = {"port": "0", "unixsocket": str(self.socket), "dir": str(self._folder), "logfile": "redis.log"}
        options = [word for name, value in {**places, **self._settings}.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([*self._program, *options])
        deadline = time.monotonic() + 20.0
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """Stop it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Pause it, or let it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A plain client, to look at what is there and to change settings."""
        password = self._settings.get("requirepass")
        with redis.Redis(unix_socket_path=str(self.socket), password=password, retry=Retry(NoBackoff(), 0)) as client:
            yield client

    def _answers(self) -> bool:
        with self.client() as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False


@contextmanager
def running(
    settings: Mapping[str, str] = DURABLE,
    *,
    program: Sequence[str] = ("redis-server",),
    place: Path | None = None,
) -> Iterator[RedisServer]:
    """A server of this caller alone; its folder has a short name, as the path of a socket must be short."""
    folder = Path(tempfile.mkdtemp(prefix="weir-redis-", dir=place))
    server = RedisServer(folder, settings, program)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
