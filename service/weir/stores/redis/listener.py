"""One thread that hears what any process writes, and wakes the threads of this one that wait for it."""

from __future__ import annotations

import threading
from contextlib import suppress

from redis.exceptions import RedisError

from weir.errors import StorageFailed
from weir.stores.bell import Bell
from weir.stores.redis.connection import Server

_RETRY_SECONDS = 1.0
_POLL_SECONDS = 1.0


class Listener:
    """Gives bells that writers ring from any process; starts to listen when somebody first waits.

    While it cannot listen it rings them all every second, so that who waits looks for himself.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._bells: dict[str, Bell] = {}
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = threading.Event()

    def bell(self, name: str) -> Bell:
        """The bell that is rung by what is published in the channel of this name."""
        return self._bells.setdefault(self._server.key(name), Bell())

    def start(self) -> None:
        """Listen from now on; does nothing when it does already, or was closed."""
        with self._starting:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="weir-redis-listener", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        with self._starting:
            self._closed.set()
        if self._thread is not None:
            with suppress(StorageFailed):  # wakes the thread at once; without it that looks up within a second
                self._server.call("PUBLISH", next(iter(self._bells)), "")
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except (RedisError, OSError):
                self._ring_all()
                self._closed.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        subscription = self._server.listen(*self._bells)
        try:
            while not self._closed.is_set():
                message = subscription.get_message(timeout=_POLL_SECONDS)
                # The confirmation of the subscription rings too: what was published before it was not heard.
                if message is not None and message["channel"] is not None:
                    self._bells[message["channel"].decode()].ring()
        finally:
            subscription.close()

    def _ring_all(self) -> None:
        for bell in self._bells.values():
            bell.ring()
