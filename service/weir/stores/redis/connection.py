"""One Redis server: a bounded pool of connections, scripts that run whole or not at all, and failures by name."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from weir.errors import InvalidSetting, StorageFailed, WeirError
from weir.stores.redis import failures

T = TypeVar("T")

_CONNECTIONS = 16
_MAJOR_VERSION = 7
_SCHEMA_VERSION = "1"
# A connection that was idle for so many seconds is tried before it is used: a server that vanished says no goodbye.
_HEALTH_CHECK_SECONDS = 30
# How long the server remembers that a call was made. It only has to outlive the second try of the same call.
_ONCE_MILLISECONDS = 60_000


PAGE = 500
"""How many things one call reads, or one script changes: others wait meanwhile."""


ONCE = f"""
local once = KEYS[#KEYS]
local function repeated() return redis.call('EXISTS', once) == 1 end
local function remember() redis.call('SET', once, '', 'PX', {_ONCE_MILLISECONDS}) end
"""
"""Lua for a write that would count twice: its last key names the call, and tells a second try from a second call."""


class Script:
    """A Lua script, known to the server by its SHA-1.

    The server checks before it starts one that it may write, so that a refusal leaves nothing half done. With
    ``flags="allow-oom"`` one runs also when memory is full: what makes room must.
    """

    def __init__(self, body: str, *, flags: str = "") -> None:
        self.text = f"#!lua{f' flags={flags}' if flags else ''}\n{body}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_OPEN = Script(
    """
    local version = redis.call('GET', KEYS[1])
    if not version then
        redis.call('SET', KEYS[1], ARGV[1])
        return ARGV[1]
    end
    return version
    """,
    flags="allow-oom",
)


class Server:
    """Connects on first use, again after every loss, and never holds more than a few connections.

    A call whose connection breaks is tried once more, so every write must be one that may be repeated; ``timeout``
    (seconds) bounds each try. Raises InvalidSetting for a URL that is none.
    """

    def __init__(self, url: str, *, prefix: str, timeout: float) -> None:
        self._prefix = prefix
        self._connects = 0
        self._counting = threading.Lock()
        self._closed = False
        try:
            self._pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                health_check_interval=_HEALTH_CHECK_SECONDS,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                redis_connect_func=self._connected,
            )
        except ValueError:  # its text may hold a part of the password
            raise InvalidSetting("redis_url", "(not shown)", "redis://, rediss:// or unix:// and an address") from None
        settings = self._pool.connection_kwargs
        self._client: Any = redis.Redis(connection_pool=self._pool)
        self._address = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
        self._secrets = [secret for secret in (settings.get("password"), settings.get("username")) if secret]

    @property
    def connects(self) -> int:
        """How many connections were made so far: a new number may mean another server, or other settings."""
        return self._connects

    def key(self, name: str) -> str:
        """The full name of a key; all of them are in one slot of a cluster."""
        return f"{{{self._prefix}}}:{name}"

    def once(self) -> str:
        """The last key of a script that begins with ``ONCE``: the name of one call."""
        return self.key(f"once:{secrets.token_hex(16)}")

    def prepare(self) -> None:
        """Check the server's version and that of what is stored there; raises StorageFailed."""
        version = str(self.call("INFO", "server").get("redis_version", "0"))
        if int(version.partition(".")[0]) < _MAJOR_VERSION:
            raise StorageFailed(
                f"{self._address}: expected Redis {_MAJOR_VERSION}.0 or newer, got {version}: update it"
            )
        schema = self.run(_OPEN, [self.key("schema")], _SCHEMA_VERSION).decode()
        if schema != _SCHEMA_VERSION:
            raise StorageFailed(
                f"{self._address}: expected schema version {_SCHEMA_VERSION} under the prefix {self._prefix!r}, "
                f"got {schema}: choose another prefix, or use the version of Weir that wrote this one"
            )

    def call(self, *command: Any) -> Any:
        """Run one command that only reads."""
        return self._attempt(lambda: self._client.execute_command(*command))

    def together(self, *commands: Sequence[Any]) -> list[Any]:
        """Run commands that only read, at one moment."""

        def job() -> list[Any]:
            with self._client.pipeline(transaction=True) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                answers: list[Any] = pipeline.execute()
                return answers

        return self._attempt(job)

    def run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """Run a script that changes nothing more when it is repeated."""

        def job() -> Any:
            try:
                return self._client.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:  # the server was restarted, or has never seen it
                return self._client.eval(script.text, len(keys), *keys, *args)

        return self._attempt(job)

    def run_all(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run such a script once for the keys and arguments of every call, all in one round trip.

        Gives each call's answer, or the WeirError that ``run`` would raise for it alone.
        """

        def job() -> list[Any]:
            answers = self._pipelined("EVALSHA", script.sha, calls)
            if any(isinstance(answer, NoScriptError) for answer in answers):
                answers = self._pipelined("EVAL", script.text, calls)
            return answers

        answers = self._attempt(job)
        return [self.failure(answer) if isinstance(answer, RedisError) else answer for answer in answers]

    def listen(self, *channels: str) -> redis.client.PubSub:
        """Subscribe to channels, on a connection of its own; what it raises is redis-py's."""
        subscription: redis.client.PubSub = self._client.pubsub()
        subscription.subscribe(*channels)
        return subscription

    def failure(self, error: RedisError) -> WeirError:
        """What an error of redis-py means, without the secrets of the URL."""
        return failures.translated(error, self._address, self._secrets)

    def close(self) -> None:
        """Close every connection; whoever comes later gets StorageFailed."""
        self._closed = True
        self._pool.disconnect()

    def _pipelined(self, command: str, script: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipeline:
            for keys, args in calls:
                pipeline.execute_command(command, script, len(keys), *keys, *args)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            return answers

    def _attempt(self, job: Callable[[], T]) -> T:
        try:
            self._check_open()
            return job()
        except RedisError as error:
            if not failures.is_lost_connection(error):
                raise self.failure(error) from error
        try:
            self._check_open()
            return job()
        except RedisError as error:
            raise self.failure(error) from error

    def _check_open(self) -> None:
        if self._closed:
            raise StorageFailed(f"{self._address}: it was closed: open it again")

    def _connected(self, connection: Any) -> None:
        connection.on_connect()
        with self._counting:
            self._connects += 1
