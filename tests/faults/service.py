"""The real service as a process: started, killed, paused, stopped, and never left behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from tests.faults import victim

PATIENCE = 60.0  # seconds; whoever waits so long fails and shows the service's log
ADDRESS = re.compile(r"listening on (http://\S+)")
TAIL = 6_000  # characters of the log that a failure shows
# Victims are forked from a process that has imported everything once: most of a start, dozens of times over.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.victim", "weir.serving", "weir.cli.serve", "torch._dynamo"])


class Process(Protocol):
    """A process that may have ended: its exit status is negative for a signal."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...


class Forked:
    """A victim, forked."""

    def __init__(self, point: str, passing: int, environment: Mapping[str, str], log: Path) -> None:
        self._process = FORKS.Process(target=victim.live, args=(point, passing, environment, log))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode


class Service:
    """``weir serve`` with these variables in its environment; ``log`` collects what all of its lives wrote.

    Whoever waits for it calls ``check`` all the while, which may raise.

    Use it in a ``with``, or close it: no process of it is left.
    """

    def __init__(self, environment: Mapping[str, str], log: Path, *, check: Callable[[], None] = lambda: None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, "WEIR_PORT": "0", **environment}
        self._log = log
        self._check = check
        self._began = 0  # where in the log this life begins
        self._running: Process | None = None
        self.address: str | None = None  # while it listens; another one in each life

    def start(self, point: str | None = None, passing: int = 1) -> None:
        """Begin a life; with a ``point`` it ends at its ``passing``-th passing."""
        with self._log.open("ab") as log:
            self._began = log.tell()
            self._running = Forked(point, passing, self._environment, self._log) if point else self._served(log)

    def wait_until_it_listens(self) -> bool:
        """Return once requests are answered; False when it died before."""
        self.wait(lambda: self._listens() or self.exit is not None, "listen")
        return self.address is not None

    def wait_until_it_ends(self) -> int:
        """Return its exit status, negative for a signal."""
        self.wait(self._ended, "end")
        self.address = None
        assert self.exit is not None
        return self.exit

    def wait(self, happened: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Wait until something happened; the failure to do so shows the log."""
        deadline = time.monotonic() + seconds
        while not happened():
            self._check()
            if time.monotonic() > deadline:
                raise AssertionError(f"the service did not {what} within {seconds:g} s\n{self.tail}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        self.wait(lambda: self.exit is not None, "die")
        self.address = None

    def stop(self) -> None:
        """End it in order: drained, and with a checkpoint."""
        self.signal(signal.SIGTERM)
        self.wait(lambda: self.exit is not None, "stop")
        self.address = None
        if self.exit != 0:
            raise AssertionError(f"the service stopped with {self.exit}\n{self.tail}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._running is not None
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.kill(self._running.pid, number)

    @property
    def exit(self) -> int | None:
        """Its exit status, None while it lives."""
        return self._running.poll() if self._running else None

    @property
    def memory(self) -> int:
        """Bytes of its resident memory."""
        assert self._running is not None
        pages = int(Path(f"/proc/{self._running.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    @property
    def told(self) -> str:
        """What it has logged in this life."""
        with self._log.open("rb") as log:
            log.seek(self._began)
            return log.read().decode(errors="replace")

    @property
    def tail(self) -> str:
        """The end of the log of all lives."""
        return self._log.read_bytes()[-TAIL:].decode(errors="replace") if self._log.exists() else "(no log)"

    def _served(self, log: IO[bytes]) -> Process:
        command = [sys.executable, "-m", "weir", "serve"]
        nothing = subprocess.DEVNULL
        return subprocess.Popen(
            command, env=self._environment, stdin=nothing, stdout=log, stderr=log, start_new_session=True
        )

    def _ended(self) -> bool:
        self._listens()  # producers need its address to bring it to its end
        return self.exit is not None

    def _listens(self) -> str | None:
        if self.address is None and (found := ADDRESS.search(self.told)):
            self.address = found[1]
        return self.address

    def close(self) -> None:
        """Leave no process behind."""
        self._check = lambda: None  # what went wrong has been told by now
        if self._running is not None and self.exit is None:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
