"""Who calls, and what they may do: API keys, roles, and the trusted loopback mode without keys.

A key is ``weir_<id>_<secret>``, sent as ``Authorization: Bearer <key>``. Only the SHA-256 of its secret is
stored: the secret has 256 random bits, so a slow hash would protect nothing more. Without any key the service
listens on loopback only and grants every role; from the first key on, which is noticed within a second, every
request needs one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from weir.errors import Forbidden, InvalidInput, InvalidSetting, NotFound, Unauthenticated
from weir.stores.base import KeyRecord, Keys, Role

PRODUCER_HEADER = "X-Weir-Producer"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_RULE = "1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit"
_LOOPBACK_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?")
_OPEN_SECONDS = 1.0
_NO_DIGEST = hashlib.sha256(b"").hexdigest()

_bearer = HTTPBearer(scheme_name="key", bearerFormat="weir_<id>_<secret>", auto_error=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller: the name of its key, and its roles."""

    name: str
    roles: frozenset[Role]

    def has(self, *roles: Role) -> bool:
        """Whether the caller has one of these roles."""
        return not self.roles.isdisjoint(roles)


def issue(name: str, roles: Iterable[Role], clock: Callable[[], float]) -> tuple[KeyRecord, str]:
    """A new key: the record to store, and the key itself, which is shown this once; raises InvalidSetting."""
    granted = frozenset(roles)
    if not _NAME.fullmatch(name):
        raise InvalidSetting("name", repr(name[:80]), _NAME_RULE)
    if not granted:
        raise InvalidSetting("roles", "no role", f"one or more of {', '.join(Role)}")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return KeyRecord(key_id, name, granted, _digest(secret), clock()), f"weir_{key_id}_{secret}"


def rotate(keys: Keys, id: str, clock: Callable[[], float]) -> tuple[KeyRecord, str]:
    """Replace a key by a new one of the same name and roles, and revoke the old one; raises NotFound."""
    old = keys.get(id)
    if old is None or old.revoked_at is not None:
        raise NotFound("active key", id)
    record, key = issue(old.name, old.roles, clock)
    keys.add(record)
    keys.revoke(id, clock())
    return record, key


class Keyring:
    """The keys as the API asks for them; ``keyed`` stays true once a key was seen.

    ``clock`` gives seconds that only go forward.
    """

    def __init__(self, keys: Keys, *, keyed: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._keyed = keyed
        self._clock = clock
        self._open_until = clock()

    @property
    def keyed(self) -> bool:
        """Whether requests need a key; a revoked key counts, so that revoking the last one opens nothing."""
        if not self._keyed:
            self._keyed = bool(self._keys.all())
            self._open_until = self._clock() + _OPEN_SECONDS
        return self._keyed

    @property
    def was_open(self) -> bool:
        """Whether there was no key a second ago at most: then no request need ask the store, which may block."""
        return not self._keyed and self._clock() < self._open_until

    def holder(self, key: str) -> Identity:
        """Whose key this is; raises Unauthenticated with the same words, in the same time, for every wrong key."""
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        record = self._keys.get(key_id)
        matches = hmac.compare_digest(_digest(secret), record.digest if record else _NO_DIGEST)
        if record is None or not matches or prefix != "weir" or record.revoked_at is not None:
            raise Unauthenticated("this key is not known or was revoked; ask an administrator for a new one")
        return Identity(record.name, record.roles)


async def identify(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Identity:
    """The caller of this request; raises Unauthenticated, and Forbidden for what is not loopback without keys."""
    keyring: Keyring = request.app.state.keyring
    if keyring.was_open:
        return _trusted(request)
    return await run_in_threadpool(_looked_up, keyring, request, credentials)


def _looked_up(keyring: Keyring, request: Request, credentials: HTTPAuthorizationCredentials | None) -> Identity:
    if not keyring.keyed:
        return _trusted(request)
    if credentials is None:
        raise Unauthenticated("send an API key as 'Authorization: Bearer weir_<id>_<secret>'")
    return keyring.holder(credentials.credentials)


def _trusted(request: Request) -> Identity:
    """The caller without keys: a program on this machine, never a web page that a browser on it has open."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not _LOOPBACK_HOST.fullmatch(host) or origin not in (None, f"{request.scope['scheme']}://{host}"):
        raise Forbidden("without keys only this machine is served, as localhost or 127.0.0.1; issue a key to open it")
    name = request.headers.get(PRODUCER_HEADER, "local")
    if not _NAME.fullmatch(name):
        raise InvalidInput(PRODUCER_HEADER, repr(name[:80]), _NAME_RULE)
    return Identity(name, frozenset(Role))


Caller = Annotated[Identity, Depends(identify)]


class Allow:
    """A route's guard, which gives the caller: it needs one of these roles; raises Forbidden."""

    def __init__(self, *roles: Role) -> None:
        self.roles = roles

    def __str__(self) -> str:
        return " or ".join(self.roles)

    async def __call__(self, who: Caller) -> Identity:
        if not who.has(*self.roles):
            raise Forbidden(f"this needs the role {self}; the key {who.name!r} has {', '.join(sorted(who.roles))}")
        return who

    async def caller(self, request: Request) -> Identity:
        """The caller of a request whose route asks for its guard itself; raises what the guard raises."""
        return await self(await identify(request, await _bearer(request)))


SEND = Allow(Role.PRODUCER, Role.ADMIN)
FOLLOW = Allow(Role.PRODUCER, Role.READER, Role.REVIEWER, Role.ADMIN)
READ = Allow(Role.READER, Role.ADMIN)
INSPECT = Allow(Role.READER, Role.REVIEWER, Role.ADMIN)
REVIEW = Allow(Role.REVIEWER, Role.ADMIN)
ADMINISTER = Allow(Role.ADMIN)


class GuardedRoute(APIRoute):
    """A route whose documentation names the roles that its own guard asks for."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        guards = [part.call for part in self.dependant.dependencies if isinstance(part.call, Allow)]
        self.description += "".join(f"\n\nNeeds the role {guard}." for guard in guards)


class DirectRoute(GuardedRoute):
    """A route that is documented as any other and called directly: its endpoint gets the request, and asks its guard.

    What FastAPI does between a request and the arguments of a function costs more than taking a small batch.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
