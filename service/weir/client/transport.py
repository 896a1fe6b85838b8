"""Requests that survive a busy or restarting service: patient, bounded, and never carried out twice."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Self

import httpx

from weir.client.problems import error_of, retry_after
from weir.errors import InvalidSetting, LogFull, NotReady, ServiceUnavailable, StorageFull, WeirError

_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.INSUFFICIENT_STORAGE)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failed try: whether another is ``worth_it``, whether the service surely did nothing, the pause it asked for."""

    error: WeirError
    worth_it: bool
    not_taken: bool
    asked: float = 0.0


class Transport:
    """One service at one address; ``patience`` bounds the seconds that retries of one request may take together."""

    def __init__(self, base_url: str, headers: dict[str, str], *, timeout: float, patience: float) -> None:
        url = _checked(base_url)
        self._timeout = timeout
        self._patience = patience
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            trust_env=not _is_loopback(url.host),  # a proxy for the outside world cannot reach this machine
        )

    def __enter__(self) -> Self:
        self._http.__enter__()
        return self

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self, method: str, path: str, *, repeatable: bool | None = None, wait: float = 0.0, **parts: Any
    ) -> httpx.Response:
        """The answer to a request that succeeded; ``wait`` is how long the service itself may take on purpose.

        A service that is busy or full (429, 503, 507) or not reached is asked again, after a jittered pause that grows
        and that honours Retry-After. What may have been carried out is asked again only if it is ``repeatable`` (if not
        told: all but POST). Raises the error of the last try.
        """
        again = method != "POST" if repeatable is None else repeatable
        deadline, attempt = monotonic() + self._patience, 0
        while True:
            answer = self._try(method, path, wait=wait, **parts)
            if isinstance(answer, httpx.Response):
                return answer
            pause = _pause(attempt) + answer.asked
            may = answer.worth_it and (again or answer.not_taken)
            if not may or monotonic() + pause > deadline:
                raise answer.error
            sleep(pause)
            attempt += 1

    def once(self, method: str, path: str, *, wait: float = 0.0, **parts: Any) -> httpx.Response:
        """Whatever answers to one try; raises ServiceUnavailable when nothing does."""
        with self._translated():
            return self._http.request(method, path, timeout=self._limits(wait), **parts)

    def lines(self, path: str, **parts: Any) -> Iterator[str]:
        """The lines of an answer as they arrive, asked for once; raises ServiceUnavailable when they break off."""
        timeout = self._limits(0.0)
        with self._translated(), self._http.stream("GET", path, timeout=timeout, **parts) as response:
            if not response.is_success:
                response.read()
                raise error_of(response)
            yield from response.iter_lines()

    def _limits(self, wait: float) -> httpx.Timeout:
        return httpx.Timeout(self._timeout + wait, connect=min(self._timeout, _CONNECT_SECONDS))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What the network raises, as ServiceUnavailable."""
        try:
            yield
        except _NEVER_SENT as error:
            cure = "start one there with `weir serve`, or give the right address"
            raise ServiceUnavailable(
                f"no service answers at {self._http.base_url} ({_words(error)}): {cure}"
            ) from error
        except httpx.RequestError as error:
            lost = "whether the request was carried out is not known"
            url = self._http.base_url
            raise ServiceUnavailable(f"the connection to {url} broke ({_words(error)}): {lost}") from error

    def _try(self, method: str, path: str, **parts: Any) -> httpx.Response | _Failure:
        try:
            response = self.once(method, path, **parts)
        except ServiceUnavailable as failure:
            return _Failure(failure, worth_it=True, not_taken=isinstance(failure.__cause__, _NEVER_SENT))
        if response.is_success:
            return response
        error, status = error_of(response), response.status_code
        not_taken = status == httpx.codes.TOO_MANY_REQUESTS or isinstance(error, LogFull | NotReady | StorageFull)
        return _Failure(error, worth_it=status in _BUSY, not_taken=not_taken, asked=retry_after(response) or 0.0)


def _checked(base_url: str) -> httpx.URL:
    expected = "an address such as http://127.0.0.1:8790"
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InvalidSetting("base_url", f"{base_url!r} ({error})", expected) from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidSetting("base_url", repr(base_url), expected)
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pause(attempt: int) -> float:
    """Seconds before the next try: twice as long each time, and random, so that clients do not come back together."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16))


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
