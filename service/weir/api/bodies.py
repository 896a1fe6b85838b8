"""Request bodies, read once and never past their limit, whatever Content-Length says."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from weir.api.problems import invalid
from weir.codec import JSON, SAFETENSORS
from weir.errors import TooLarge, UnsupportedType

_COMMAND_BYTES = 64 * 1024
_QUICK_BYTES = 512 * 1024
_QUICK_TEXT_BYTES = 16 * 1024
_DRAIN_SECONDS = 2.0

_M = TypeVar("_M", bound=BaseModel)


async def read(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body; raises TooLarge over ``limit`` bytes, and answers 408 after ``seconds``."""
    declared = request.headers.get("content-length", "")
    too_large = declared.isdecimal() and int(declared) > limit
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(seconds):
            while more and not too_large:
                chunk, more = await _receive(request)
                body += chunk
                too_large = len(body) > limit
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {seconds:g} s") from None
    if too_large:
        body.clear()
        if more:
            await _drain(request)
        raise TooLarge(limit)
    return bytes(body)


def is_quick(content_type: str, body: bytes) -> bool:
    """Whether a body is decoded in a few tenths of a millisecond: sooner than by way of another thread."""
    return len(body) <= (_QUICK_BYTES if content_type == SAFETENSORS else _QUICK_TEXT_BYTES)


async def read_json(request: Request, model: type[_M], seconds: float) -> _M:
    """The small JSON body of a command; none at all is an empty object. Raises InvalidInput."""
    body = await read(request, _COMMAND_BYTES, seconds)
    content_type = request.headers.get("content-type", "")
    if body and content_type.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedType(content_type, (JSON,))
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise invalid(error.errors()[0]) from None


def documented(schema: dict[str, Any], *, binary: bool = False, required: bool = True) -> dict[str, Any]:
    """The OpenAPI part of a body that a route reads itself."""
    content: dict[str, Any] = {JSON: {"schema": _whole(schema, schema.get("$defs", {}))}}
    if binary:
        content[SAFETENSORS] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": required, "content": content}}


def _whole(part: Any, definitions: dict[str, Any]) -> Any:
    """A schema with its own definitions in their places: a reference would look for them in the whole document."""
    if isinstance(part, list):
        return [_whole(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _whole(definitions[part["$ref"].rpartition("/")[2]], definitions)
    return {name: _whole(value, definitions) for name, value in part.items() if name != "$defs"}


async def _receive(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _drain(request: Request) -> None:
    """Drop what still arrives, for a while: a connection closed over unread bytes is reset, and the answer lost.

    A caller that waits for leave to send (Expect) gets its answer at once.
    """
    more = "expect" not in request.headers
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while more:
                _, more = await _receive(request)
