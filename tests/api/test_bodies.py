"""Bodies over the wire: too large, too slow, cut off; with and without a length."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.api.conftest import House, Open, batch

from weir.api.service import Limits
from weir.codec import SAFETENSORS, encode

BINARY = {"Content-Type": SAFETENSORS}
LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def small(open_house: Open, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    limits = Limits(max_body_bytes=LIMIT, body_seconds=0.3)
    with open_house(tmp_path_factory.mktemp("house"), limits=limits) as house:
        yield house


def chunks(size: int) -> Iterator[bytes]:
    """A body whose length nobody is told."""
    for _ in range(size // 1024):
        yield b"x" * 1024


def raw(house: House, path: str, *headers: str, key: str = "alice") -> socket.socket:
    """A connection that has sent the head of a POST."""
    address = urlsplit(house.address)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    head = [f"POST {path} HTTP/1.1", f"Host: {address.netloc}", f"Authorization: Bearer {house.keys[key]}", *headers]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    return connection


def said(connection: socket.socket) -> str:
    """All that the service says until it closes."""
    with connection, connection.makefile("rb") as file:
        return file.read().decode()


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/predict", "/v1/probe"])
@pytest.mark.parametrize("size", [LIMIT + 1024, 3 * LIMIT, 100 * LIMIT])
@pytest.mark.parametrize("counted", [True, False], ids=["with a length", "without a length"])
def test_a_body_over_the_limit_is_413(small: House, path: str, size: int, counted: bool) -> None:
    before = small.stand()
    content: Any = b"x" * size if counted else chunks(size)
    method = "PUT" if path == "/v1/probe" else "POST"
    answer = small.caller("admin", **BINARY).request(method, path, content=content)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert str(LIMIT) in answer.json()["detail"]
    assert small.stand() == before
    assert small.caller("admin").get("/health/live").status_code == 200


def test_a_body_of_just_the_limit_is_read(small: House) -> None:
    answer = small.caller("alice", **BINARY).post("/v1/batches", content=b"x" * LIMIT)
    assert (answer.status_code, answer.json()["code"]) == (422, "malformed_safetensors")


def test_a_caller_that_asks_first_is_refused_before_it_sends(small: House) -> None:
    length = f"Content-Length: {100 * LIMIT}"
    answer = said(raw(small, "/v1/batches", f"Content-Type: {SAFETENSORS}", length, "Expect: 100-continue"))
    assert answer.startswith("HTTP/1.1 413")


def test_a_length_that_lies_does_not_let_more_in(small: House) -> None:
    """What follows the announced bytes is another request's, and never part of the body."""
    connection = raw(small, "/v1/batches", f"Content-Type: {SAFETENSORS}", "Content-Length: 8", "Connection: close")
    connection.sendall(encode(batch()))
    assert said(connection).startswith("HTTP/1.1 422")


def test_a_body_that_does_not_arrive_is_408(small: House) -> None:
    before = small.stand()
    connection = raw(small, "/v1/batches", f"Content-Type: {SAFETENSORS}", "Content-Length: 1000", "Connection: close")
    connection.sendall(b"x" * 10)
    answer = said(connection)
    assert answer.startswith("HTTP/1.1 408")
    assert '"request_timeout"' in answer
    assert small.stand() == before


def test_a_caller_that_leaves_takes_nothing_along(small: House, caplog: pytest.LogCaptureFixture) -> None:
    before = small.stand()
    with raw(small, "/v1/batches", f"Content-Type: {SAFETENSORS}", "Content-Length: 1000") as connection:
        connection.sendall(b"x" * 10)
    assert small.caller().get("/health/live").status_code == 200
    assert small.stand() == before
    assert "unexpected" not in caplog.text


@pytest.mark.parametrize("path", ["/v1/rollback", "/v1/checkpoints", "/v1/quarantine/b:0/release"])
def test_a_commands_body_has_a_smaller_limit(small: House, path: str) -> None:
    answer = small.caller("admin").post(path, json={"note": "x" * LIMIT})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_commands_body_is_json_and_nothing_else(small: House) -> None:
    before = small.stand()
    admin = small.caller("admin")
    answer = admin.post("/v1/rollback", content=b'{"checkpoint": "c"}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")
    broken = admin.put("/v1/mode", content=b"{", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["field"]) == (422, "body")
    assert small.stand() == before
