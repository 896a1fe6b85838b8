"""A network of two machines and one cable between them, which can be pulled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HERE, THERE = "10.213.77.1", "10.213.77.2"


class Cable:
    """Leads to a network namespace in which ``within`` runs a program; there it has the address ``THERE``."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def within(self) -> tuple[str, ...]:
        """The words that a command begins with to run at the other end."""
        return ("ip", "netns", "exec", self._name)

    def pull(self) -> None:
        """From now on no packet arrives, and nobody is told."""
        _ip(*self.within[1:], "ip", "link", "set", "far", "down")

    def plug(self) -> None:
        """Let packets through again."""
        _ip(*self.within[1:], "ip", "link", "set", "far", "up")


@contextmanager
def cable() -> Iterator[Cable]:
    """A cable with both ends plugged; raises PermissionError where this process may not lay one."""
    name = f"weir{os.getpid()}"
    laid = Cable(name)
    _ip("netns", "add", name)
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "far", "netns", name)
        _ip("address", "add", f"{HERE}/30", "dev", name)
        _ip("link", "set", name, "up")
        _ip(*laid.within[1:], "ip", "address", "add", f"{THERE}/30", "dev", "far")
        laid.plug()
        yield laid
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
