"""What an acknowledgement of a Redis server is worth, by its own settings."""

from __future__ import annotations

from collections.abc import Mapping

from weir.errors import StorageFailed
from weir.stores.base import Durability
from weir.stores.redis.connection import Server

_SETTINGS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
_FSYNC = {
    "everysec": "up to a second of acknowledged batches can be lost",
    "no": "whatever the machine had not yet written to its disk can be lost",
}


class DurabilityCheck:
    """Asks the server once, and again after every new connection: it may be another one, or set up anew."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._asked_at = -1
        self._answer = Durability()

    def now(self) -> Durability:
        """What the server's settings promise; a server that does not answer promises nothing."""
        connects = self._server.connects
        if connects != self._asked_at:
            try:
                self._answer = Durability(tuple(self._weaknesses()))
            except StorageFailed as error:
                return Durability((f"its settings cannot be verified now: {error}",))
            self._asked_at = connects
        return self._answer

    def _weaknesses(self) -> list[str]:
        state = self._server.call("INFO", "persistence")
        try:
            settings = self._server.call("CONFIG GET", *_SETTINGS)
        except StorageFailed:  # managed servers forbid it
            return [*_unwritten(state), *_unknown(state)]
        return [*_unwritten(state), *_weak(settings)]


def _unwritten(state: Mapping[str, object]) -> list[str]:
    if state.get("aof_last_write_status", "ok") == "ok":
        return []
    return ["its last write to the append-only file failed: free space on its disk"]


def _unknown(state: Mapping[str, object]) -> list[str]:
    if not state.get("aof_enabled"):
        return ["appendonly is no: a restart loses what was acknowledged; set it to yes"]
    return [
        "its settings cannot be verified, as it forbids CONFIG GET: see to it that appendfsync is always and "
        "maxmemory-policy noeviction, and allow CONFIG GET"
    ]


def _weak(settings: Mapping[str, str]) -> list[str]:
    found = []
    fsync, policy = settings.get("appendfsync", ""), settings.get("maxmemory-policy", "")
    if settings.get("appendonly") != "yes":
        found.append("appendonly is no: a restart loses what was acknowledged; set it to yes")
    elif fsync != "always":
        found.append(f"appendfsync is {fsync}: {_FSYNC.get(fsync, 'batches can be lost')}; set it to always")
    elif settings.get("no-appendfsync-on-rewrite") == "yes":
        found.append(
            "no-appendfsync-on-rewrite is yes: batches that are acknowledged while the file is rewritten can be lost; "
            "set it to no"
        )
    if policy != "noeviction":
        found.append(
            f"maxmemory-policy is {policy}: a full server may delete what was acknowledged; set it to noeviction"
        )
    return found
