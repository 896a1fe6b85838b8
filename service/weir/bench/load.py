"""Load on a server of this machine: connections that send requests one after the other, and how it went."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter

from weir.errors import ServiceUnavailable

_PATIENCE = 60.0  # seconds that one answer may take
_HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Load:
    """What came back: the latency of every answer, and how often each status, in so many seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, part: float) -> float:
        """The latency, in seconds, that this part of the answers kept within."""
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(part * len(self.latencies)))]


def request(path: str, body: bytes, content_type: str) -> bytes:
    """A POST as bytes of HTTP/1.1."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def drive(port: int, messages: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """Send over so many kept-alive connections the next of the messages when an answer is there, round and round.

    Raises ServiceUnavailable when the server closes a connection, does not answer or refuses: to refuse takes no time,
    and a rate with refusals in it says nothing.
    """
    load = asyncio.run(_drive(port, cycle(messages), connections, seconds))
    if refused := {status: count for status, count in load.statuses.items() if not 200 <= status < 300}:
        raise ServiceUnavailable(f"the server at port {port} refused requests, by status: {refused}")
    return load


def cpu_seconds(process: int) -> float:
    """Seconds of CPU that a process and its threads have used so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _drive(port: int, messages: Iterator[bytes], connections: int, seconds: float) -> Load:
    load, began = Load(), perf_counter()
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: _Connection(messages, load, began + seconds), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    try:
        async with asyncio.timeout(seconds + _PATIENCE):
            await asyncio.gather(*(connection.done for connection in opened))
    except (TimeoutError, ConnectionError) as error:
        raise ServiceUnavailable(f"the server at port {port} stopped answering: {error!r}") from error
    finally:
        for connection in opened:
            connection.close()
    load.seconds = perf_counter() - began
    return load


class _Connection(asyncio.Protocol):
    """One connection; it sends as soon as it is made."""

    _transport: asyncio.Transport

    def __init__(self, messages: Iterator[bytes], load: Load, until: float) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._messages = messages
        self._load = load
        self._until = until
        self._began = 0.0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(_HEAD_END)
        if not end or len(body) < _length(head):
            return
        now = perf_counter()
        self._load.latencies.append(now - self._began)
        self._load.statuses[int(head[9:12])] += 1
        self._answer = b""
        if now < self._until:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionResetError("it closed the connection"))

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def _send(self) -> None:
        self._began = perf_counter()
        self._transport.write(next(self._messages))


def _length(head: bytes) -> int:
    """What an answer says its body has, in bytes."""
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    return next((int(value) for name, _, value in fields if name == b"content-length"), 0)
