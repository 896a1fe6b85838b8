"""The outermost layer: a request id, a log line, and an answer even to what nobody foresaw."""

from __future__ import annotations

import logging
import re
import time
import uuid

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weir import logs
from weir.api.problems import concealed

HEADER = "X-Request-ID"

_log = logging.getLogger("weir.api")
_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = ("/metrics", "/health/live", "/health/ready")


class Access:
    """ASGI middleware; the request id is taken from ``X-Request-ID`` if that is sane, else made up."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        request.state.request_id = request_id = _request_id(request)
        logs.request_id.set(request_id)  # each request has a context of its own: nothing needs to take it back
        status, started = 0, time.perf_counter()

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self.app(scope, receive, tagged)
        except ClientDisconnect:
            _log.info("the caller left before its body was read; request %s", request_id)
        except Exception as error:
            if status:
                raise  # half an answer is on its way: only cutting the connection tells the caller
            await concealed(request, error)(scope, receive, tagged)
        finally:
            _report(scope, status, time.perf_counter() - started, request_id)


def _request_id(request: Request) -> str:
    given = request.headers.get(HEADER, "")
    return given if _SANE.fullmatch(given) else uuid.uuid4().hex


def _report(scope: Scope, status: int, seconds: float, id: str) -> None:
    """One line; the route's pattern stands for its path, whose text is the caller's and could forge lines."""
    path = getattr(scope.get("route"), "path_format", "(no route)")
    level = logging.DEBUG if path in _QUIET else logging.INFO
    fields = {"method": scope["method"], "route": path, "status": status, "seconds": round(seconds, 6)}
    _log.log(
        level,
        "%s %s %d in %.1f ms; request %s",
        scope["method"],
        path,
        status,
        1000 * seconds,
        id,
        extra={logs.FIELDS: fields},
    )
