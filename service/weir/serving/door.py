"""The door of a process: where it listens, who may come in, and how long it answers."""

from __future__ import annotations

import errno
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from weir.api import garbage
from weir.config import Settings
from weir.errors import Conflict, InvalidSetting
from weir.stores.base import Keys, Shared

logger = logging.getLogger("weir.serving")
GRACE_SECONDS = 10  # for requests under way, and again for what is left in the log


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; raises Conflict when the port is taken, InvalidSetting when the address is no good."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except PermissionError:
        raise InvalidSetting("WEIR_PORT", port, "a port that this user may open, such as 8790") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"{host}:{port} is in use: stop what listens there, or choose another port with --port"
            ) from None
        raise InvalidSetting("WEIR_HOST", host, f"an address of this machine ({error.strerror})") from None
    with listener:
        yield listener


def check_exposure(settings: Settings, keys: Keys) -> bool:
    """Whether requests need a key; raises InvalidSetting for a host beyond this machine that nobody has a key for."""
    keyed = any(record.revoked_at is None for record in keys.all())
    if keyed or _is_loopback(settings.host):
        return keyed
    raise InvalidSetting(
        "WEIR_HOST",
        settings.host,
        "127.0.0.1 as long as there is no API key: anyone on the network could teach the model "
        f"(make one with: weir keys add NAME --role admin --data {settings.data})",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def port(listener: socket.socket) -> int:
    """The port of a listener."""
    number: int = listener.getsockname()[1]
    return number


def introduce(stores: Shared, listener: socket.socket) -> None:
    """Say what an acknowledgement is worth, where this process listens, and to whom."""
    relaxed = "; ".join(stores.durability().relaxed_because)
    level = logging.WARNING if relaxed else logging.INFO
    logger.log(level, "durability: %s", f"RELAXED: {relaxed}" if relaxed else "full")
    host = listener.getsockname()[0]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port(listener)}"
    logger.info("listening on %s (%s)", address, _who_may_ask(stores.keys))


def _who_may_ask(keys: Keys) -> str:
    known = keys.all()
    if not known:
        return "no keys: this machine only, every role"
    if all(record.revoked_at is not None for record in known):
        return "every key is revoked, so nobody may ask: make one with weir keys add"
    return "every request needs a key"


def answer(app: FastAPI, listener: socket.socket) -> None:
    """Answer requests until a signal."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    garbage.spare_what_stays()
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def outlived_signals() -> Iterator[None]:
    """Outlive SIGINT and SIGTERM: uvicorn raises again what it caught when it is done, and the drain comes after."""
    caught = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
