"""Every failure as ``application/problem+json`` (RFC 9457): one table from error to status, one shape.

``code`` is stable and fit for machines; ``detail`` names the field, the value seen and what was expected.
A status of 500 says its code and the request's id, and nothing of what went on inside.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from weir import errors

_log = logging.getLogger("weir.api")

MEDIA_TYPE = "application/problem+json"
STATUS: dict[type[errors.WeirError], int] = {
    errors.WeirError: 500,
    errors.InvalidInput: 422,
    errors.InvalidBatch: 422,
    errors.InvalidProbe: 422,
    errors.InvalidSetting: 422,
    errors.InvalidSettings: 500,
    errors.Refused: 409,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Elsewhere: 421,
    errors.TooLarge: 413,
    errors.UnsupportedType: 415,
    errors.LogFull: 503,
    errors.QuotaExceeded: 429,
    errors.NotReady: 503,
    errors.ModelNotBuilt: 500,
    errors.DamagedCheckpoint: 500,
    errors.DamagedPublication: 500,
    errors.StorageFailed: 503,
    errors.StorageFull: 507,
    errors.Fenced: 503,
    errors.GroupLost: 503,
    errors.RankFailed: 500,
    errors.ServiceUnavailable: 502,
}
_BY_CODE = {error.code: status for error, status in STATUS.items()} | {"command_failed": 500}
_LONGEST = 200
_STORAGE_SECONDS = 5
_FULL = "the disk is full: nothing was taken; free space, then send it again"


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="always about:blank: `code` says what happened")
    title: str = Field(description="the status in words")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what happened and how to cure it, for people")
    code: str = Field(description="what happened, for machines; stable")
    request_id: str = Field(description="the request's id, as in X-Request-ID and in the service's log")
    field: str | None = Field(default=None, description="what is wrong, such as `y[3]`")
    seen: str | None = Field(default=None, description="the value seen there")
    expected: str | None = Field(default=None, description="what was expected there")


class CommandFailed(Exception):
    """A command that the learner refused; ``error`` is its answer from the journal."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.error = error
        super().__init__(str(error.get("detail", error["code"])))


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The failures of a route, for its documentation; 401, 403, 422, 500 and 503 are added by ``create_app``."""
    schema = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return {status: {"description": HTTPStatus(status).phrase, **schema} for status in statuses}


def concealed(request: Request, error: Exception, status: int = 500, code: str = "internal_error") -> JSONResponse:
    """The answer to a failure inside the service: the cause goes to the log and not to the caller."""
    request_id = request.state.request_id
    _log.error("%s; request %s", code, request_id, exc_info=error)
    detail = f"something failed inside the service; its log has the cause under the request id {request_id}"
    return _problem(request, status, code, detail, headers=_headers(error))


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(errors.WeirError, _weir_error)
    app.add_exception_handler(CommandFailed, _command_failed)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)


async def _weir_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.WeirError)
    status = next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)
    if isinstance(error, errors.StorageFull):
        _log.error("%s; request %s", error, request.state.request_id)
        return _problem(request, status, error.code, _FULL, headers=_headers(error))
    if status >= 500 and not isinstance(error, errors.Refused):
        return concealed(request, error, status, error.code)
    place = {}
    if isinstance(error, errors.InvalidInput):
        place = {"field": error.field, "seen": error.seen, "expected": error.expected}
    return _problem(request, status, error.code, str(error), place, _headers(error))


async def _command_failed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CommandFailed)
    code, status = str(error.error["code"]), _status(error.error)
    if status >= 500:
        return concealed(request, error, status, code)
    place = {name: error.error.get(name) for name in ("field", "seen", "expected")}
    return _problem(request, status, code, str(error), place)


def told(error: Mapping[str, Any]) -> dict[str, Any]:
    """The error of a command as a caller may see it: what failed inside the service is in its log."""
    return {"code": error["code"]} if _status(error) >= 500 else dict(error)


def _status(error: Mapping[str, Any]) -> int:
    return _BY_CODE.get(str(error["code"]), 409 if error.get("field") is None else 422)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _weir_error(request, invalid(error.errors()[0]))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _problem(request, error.status_code, code, error.detail, headers=error.headers)


def invalid(error: Mapping[str, Any]) -> errors.InvalidInput:
    """One error of pydantic's as Weir's own."""
    place = ".".join(str(part) for part in error["loc"] if part not in ("query", "path", "header", "body"))
    seen = "nothing" if error["type"] == "missing" else repr(error["input"])
    return errors.InvalidInput(place or "body", seen, _lower(error["msg"]))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _headers(error: Exception) -> dict[str, str]:
    match error:
        case errors.Unauthenticated():
            return {"WWW-Authenticate": 'Bearer realm="weir"'}
        case errors.StorageFailed() | errors.Fenced():
            return {"Retry-After": str(_STORAGE_SECONDS)}
        case errors.LogFull() | errors.QuotaExceeded() | errors.NotReady():
            return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        case errors.TooLarge():
            return {"Connection": "close"}  # the rest of the body is still on its way
        case _:
            return {}


def _problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    place: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request.state.request_id,
        **{name: str(value)[:_LONGEST] for name, value in (place or {}).items() if value is not None},
    }
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)
