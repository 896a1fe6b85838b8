"""Log lines, for people or as one JSON object each, and the id of the request that a line belongs to."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that is being answered; None outside of one. Threads that answer for it see it too."""

FIELDS = "fields"
"""The name under which ``extra`` holds more than text: ``log.info("…", extra={FIELDS: {"status": 202}})``."""

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure(level: str, layout: Literal["text", "json"]) -> None:
    """Send every log line from ``level`` on to standard error, in this layout."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if layout == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        asked = request_id.get()
        if asked:
            line["request_id"] = asked
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
