"""A process that learns and takes nothing in: it owns the log and the weights, and publishes them to replicas."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from weir.config import Settings
from weir.serving import learning
from weir.serving.learning import Served
from weir.serving.publisher import Publisher
from weir.trainer import NewEngine


def serve(settings: Settings) -> None:
    """Serve until a signal; see ``learning.serve``."""
    learning.serve(settings, running)


@contextmanager
def running(settings: Settings, own_engine: NewEngine | None = None) -> Iterator[Served]:
    """Everything but the server: a started trainer, and what it publishes until it has drained."""
    with learning.opened(settings, own_engine) as own:
        publications = own.stores.publications
        assert publications is not None  # the settings see to it that there is a Redis
        every, address = settings.publish_seconds, found_at(settings)
        with Publisher(own.trainer, publications, every=every, address=address), learning.started(own.trainer):
            yield own


def found_at(settings: Settings) -> str:
    """Where others find this process: by the machine's name when it listens on every address."""
    host = settings.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{settings.port}"
    if address.is_unspecified:
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
