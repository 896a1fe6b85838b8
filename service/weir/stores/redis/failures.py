"""What redis-py raises, in Weir's words: one table of causes and cures."""

from __future__ import annotations

from collections.abc import Sequence

from redis import exceptions

from weir.errors import Fenced, StorageFailed, StorageFull, WeirError

FENCED = "FENCED"
"""How a script says that another learner has taken over."""

_FULL = (StorageFull, "raise its maxmemory, or free some of it")
_FULL_DISK = (StorageFull, "free space on its disk")
# By class, the more special before the more general.
_BY_CLASS: tuple[tuple[type[exceptions.RedisError], type[StorageFailed], str], ...] = (
    (exceptions.OutOfMemoryError, *_FULL),
    (exceptions.AuthenticationError, StorageFailed, "check the user and the password in its URL"),
    (exceptions.NoPermissionError, StorageFailed, "give its user the commands, keys and channels of Weir"),
    (exceptions.ReadOnlyError, StorageFailed, "it is a replica: name its primary"),
    (exceptions.BusyLoadingError, StorageFailed, "it is reading its files: try again when it has"),
    (exceptions.MaxConnectionsError, StorageFailed, "every connection to it is in use: try again"),
    (exceptions.TimeoutError, StorageFailed, "it did not answer in time: see what keeps it busy"),
    (exceptions.ConnectionError, StorageFailed, "start it, or check its address"),
)
_BY_TEXT: tuple[tuple[str, type[StorageFailed], str], ...] = (
    ("OOM", *_FULL),
    ("MISCONF", *_FULL_DISK),
    ("NOAUTH", StorageFailed, "put the user and the password in its URL"),
    ("WRONGTYPE", StorageFailed, "another program uses these keys: choose another prefix"),
)
# Of the class ConnectionError, but the server has answered: asking it again at once is no use.
_ANSWERED = (exceptions.AuthenticationError, exceptions.BusyLoadingError, exceptions.MaxConnectionsError)


def is_lost_connection(error: exceptions.RedisError) -> bool:
    """Whether the call may have been done although its answer is missing, or would be done by a new connection."""
    if isinstance(error, _ANSWERED):
        return False
    return isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError)


def translated(error: exceptions.RedisError, address: str, secrets: Sequence[str]) -> WeirError:
    """The failure that ``error`` is, with its cure; nothing of ``secrets`` is in its text."""
    text = str(error) or type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "***")
    if text.startswith(FENCED):
        return Fenced("another learner owns the log, or this one has left it: stop this one, or let it own the log")
    kind, cure = _kind_and_cure(error, text)
    return kind(f"{address}: {text}: {cure}")


def _kind_and_cure(error: exceptions.RedisError, text: str) -> tuple[type[StorageFailed], str]:
    for known, kind, cure in _BY_CLASS:
        if isinstance(error, known):
            return kind, cure
    for start, kind, cure in _BY_TEXT:
        if text.startswith(start):
            return kind, cure
    return StorageFailed, "see its cause"
