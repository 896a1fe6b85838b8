"""Problems: every error has a status, every failure the same shape, and no failure tells what is inside."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import NoReturn

import httpx
import pytest
from tests.api.conftest import House

from weir import errors
from weir.api.problems import STATUS
from weir.codec import SAFETENSORS


def family(error: type[errors.WeirError]) -> Iterator[type[errors.WeirError]]:
    """An error of ``weir.errors`` and all that derive from it there."""
    yield error
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


def test_every_error_has_a_status_of_its_own() -> None:
    assert set(STATUS) == set(family(errors.WeirError))


def test_an_unknown_path_and_a_wrong_method_are_problems_too(unmoved: House) -> None:
    lost = unmoved.caller("admin").get("/v1/nothing")
    assert (lost.status_code, lost.json()["code"]) == (404, "not_found")
    assert unmoved.caller("admin").get("/v1/mode/").status_code == 404
    wrong = unmoved.caller("admin").delete("/v1/mode")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["Allow"]
    for answer in (lost, wrong):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_a_request_id_is_taken_if_sane_and_made_up_if_not(unmoved: House) -> None:
    live = unmoved.caller()
    assert live.get("/health/live", headers={"X-Request-ID": "trace-7.a_B"}).headers["X-Request-ID"] == "trace-7.a_B"
    for odd in ("a b", "x" * 65, "{}", ""):
        given = live.get("/health/live", headers={"X-Request-ID": odd}).headers["X-Request-ID"]
        assert re.fullmatch("[0-9a-f]{32}", given)


def test_what_nobody_foresaw_is_told_to_the_log_and_not_to_the_caller(
    service_app: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "/var/lib/weir/secret-path"

    def broken() -> tuple[bytes, str]:
        raise RuntimeError(secret)

    monkeypatch.setattr(service_app.metrics, "render", broken)
    answer = service_app.caller("reader").get("/metrics", headers={"X-Request-ID": "find-me"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert secret not in answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "find-me"
    (record,) = [record for record in caplog.records if record.name == "weir.api" and record.levelno == logging.ERROR]
    assert "find-me" in record.getMessage()
    assert record.exc_info is not None
    assert secret in str(record.exc_info[1])


def test_a_store_that_fails_is_503_without_its_path(service_app: House, caplog: pytest.LogCaptureFixture) -> None:
    service_app.file.close()
    answer = service_app.caller("alice", **{"X-Request-ID": "find-me"}).get("/v1/batches/b_0")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
    assert "weir.db" not in answer.text
    assert any("find-me" in r.getMessage() and r.exc_info for r in caplog.records if r.name == "weir.api")


def test_a_line_in_the_log_has_the_route_the_status_and_the_request_and_no_key(
    unmoved: House, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="weir.api"):
        unmoved.caller("alice", **{"X-Request-ID": "line-1"}).get("/v1/batches/b_0%0Aforged")
        unmoved.caller("alice", **{"X-Request-ID": "line-2"}).get("/v1/%0Aforged")
    lines = [record.getMessage() for record in caplog.records if record.name == "weir.api"]
    assert re.fullmatch(r"GET /v1/batches/\{id\} 404 in [\d.]+ ms; request line-1", lines[0])
    assert re.fullmatch(r"GET \(no route\) 404 in [\d.]+ ms; request line-2", lines[1])
    assert not any(key.split("_", 2)[2] in line for key in unmoved.keys.values() for line in lines)


def test_a_long_value_is_cut_in_the_problem(unmoved: House) -> None:
    answer = unmoved.caller("reader").get("/v1/quarantine", params={"limit": "9" * 1000})
    assert answer.status_code == 422
    assert len(answer.content) < 2000


def test_the_documentation_teaches_bodies_and_problems(unmoved: House) -> None:
    assert unmoved.caller().get("/docs").status_code == 200
    schema = unmoved.caller().get("/openapi.json").json()
    post = schema["paths"]["/v1/batches"]["post"]
    assert set(post["requestBody"]["content"]) == {"application/json", SAFETENSORS}
    for operation in (o for path in schema["paths"].values() for o in path.values()):
        problem = operation["responses"]["422"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}
    assert set(schema["components"]["schemas"]["Problem"]["properties"]) >= {"code", "field", "seen", "expected"}


def test_every_reference_of_the_documentation_leads_somewhere(unmoved: House) -> None:
    schema = unmoved.caller().get("/openapi.json").json()
    known = {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
    assert set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(schema))) <= known


def failing(house: House, error: errors.WeirError, monkeypatch: pytest.MonkeyPatch) -> httpx.Response:
    """The answer to a delivery that the log refuses so."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(house.stores.log, "append_all", refuse)
        return house.caller("alice").post("/v1/batches", json={"x": [[0, 0, 0, 0]], "y": [0]})


def test_a_full_disk_is_507_in_plain_words_without_its_path(
    unmoved: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = failing(unmoved, errors.StorageFull("/var/lib/weir/weir.db: disk full"), monkeypatch)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert answer.json()["detail"] == "the disk is full: nothing was taken; free space, then send it again"
    assert int(answer.headers["Retry-After"]) >= 1
    assert "/var/lib/weir/weir.db: disk full" in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.StorageFailed("/var/lib/weir: locked"), "storage_failed"),
        (errors.Fenced("redis://secret: another one"), "fenced"),
    ],
)
def test_a_store_that_is_away_for_a_while_is_concealed_and_worth_another_try(
    unmoved: House, error: errors.WeirError, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = failing(unmoved, error, monkeypatch)
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert str(error) not in answer.text
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_quota_is_429_with_its_own_words(unmoved: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = unmoved.metrics.registry.get_sample_value("weir_batches_total", {"outcome": "over_quota"})
    answer = failing(unmoved, errors.QuotaExceeded(2.5, "alice has 9 batches waiting"), monkeypatch)
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert answer.headers["Retry-After"] == "3"
    assert answer.json()["detail"].startswith("alice has 9 batches waiting")
    assert before is not None
    after = unmoved.metrics.registry.get_sample_value("weir_batches_total", {"outcome": "over_quota"})
    assert after == before + 1
