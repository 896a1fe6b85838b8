"""Log lines as a collector reads them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from weir import logs


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Logging as it was before, whatever a test configures."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def line(printed: str) -> dict[str, Any]:
    (text,) = printed.splitlines()
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_is_one_json_object_with_what_is_known_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("weir.test").warning("two\nlines of %s", "Größe", extra={logs.FIELDS: {"status": 202}})
    found = line(capsys.readouterr().err)
    assert found.pop("time").endswith("+00:00")
    assert found == {"level": "warning", "logger": "weir.test", "message": "two\nlines of Größe", "status": 202}


def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError("no\ngood")
    except ValueError:
        logging.getLogger("weir.test").error("failed", exc_info=sys.exc_info())
    assert "ValueError: no\ngood" in line(capsys.readouterr().err)["exception"]


def test_a_line_within_a_request_carries_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    token = logs.request_id.set("find-me")
    logging.getLogger("weir.test").info("within")
    logs.request_id.reset(token)
    assert line(capsys.readouterr().err)["request_id"] == "find-me"
    logging.getLogger("weir.test").info("outside")
    assert "request_id" not in line(capsys.readouterr().err)


def test_text_is_for_people_and_the_level_holds(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "text")
    logging.getLogger("weir.test").info("unseen")
    logging.getLogger("weir.test").warning("seen")
    (text,) = capsys.readouterr().err.splitlines()
    assert text.endswith("WARNING weir.test: seen")
