"""A connection to one service: what every part of the client asks through."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from weir.client.answers import Queued
from weir.client.reading import read
from weir.client.transport import Transport
from weir.errors import InvalidSetting

_T = TypeVar("_T")


class Connection:
    """See ``Client``."""

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        producer: str | None = None,
        timeout: float = 30.0,
        patience: float = 30.0,
    ) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {_header('key', key)}"}
        if producer is not None:
            headers["X-Weir-Producer"] = _header("producer", producer)
        self._transport = Transport(base_url, headers, timeout=timeout, patience=patience)

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _command(self, kind: type[_T], method: str, path: str, **parts: Any) -> _T | Queued:
        response = self._transport.ask(method, path, **parts)
        if response.status_code == httpx.codes.ACCEPTED:
            return read(Queued, response)
        return read(kind, response)


def part(id: str) -> str:
    """An id as one part of a path, whatever it holds."""
    return quote(id, safe=":")


def _header(name: str, value: str) -> str:
    """A value fit for a header; the error says nothing of it, for it may be a secret."""
    if not (value and value.isascii() and value.isprintable()):
        raise InvalidSetting(name, "something else", "printable ASCII characters")
    return value
