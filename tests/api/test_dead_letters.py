"""Dead letters: what could not be processed is shown, sent anew once, or dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import STEP_SIZE, House, Open, Scripted, batch, dead_letter, samples

from weir import codec
from weir.core import Engine
from weir.errors import LogFull, NotFound
from weir.stores.base import EntryKind


@pytest.fixture
def quiet(open_house: Open, tmp_path: Path) -> Any:
    """Three dead letters, and a learner that leaves the log alone."""
    with open_house(tmp_path, started=False) as house:
        house.behave(learner=Scripted(house.trainer))
        for letter in (dead_letter("a"), dead_letter("b", producer="bob"), dead_letter("c", 4)):
            house.stores.dead_letters.put(letter)
        yield house


def test_a_batch_that_raises_is_dead_and_told_with_its_error(
    service_app: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ArithmeticError("no such kernel")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "process", broken)
        sent = service_app.send(batch())
    assert (sent["state"], sent["counts"]["quarantine"]) == ("dead", STEP_SIZE)
    reviewer = service_app.caller("reviewer")
    (letter,) = reviewer.get("/v1/dead-letters").json()["items"]
    assert (letter["batch"], letter["producer"], letter["samples"]) == (sent["id"], "alice", STEP_SIZE)
    assert "no such kernel" in letter["error"]
    again = reviewer.post(f"/v1/dead-letters/{letter['id']}/retry")
    assert again.status_code == 202
    taken = service_app.send(batch(seed=3))  # it lies behind the retry
    assert taken["state"] == "learned"
    anew = reviewer.get(again.headers["Location"]).json()
    assert (anew["state"], anew["producer"], len(anew["verdicts"])) == ("learned", "alice", STEP_SIZE)
    assert service_app.caller("alice").get(again.headers["Location"]).status_code == 200


def test_letters_are_listed_page_by_page(quiet: House) -> None:
    reader = quiet.caller("reader")
    first = reader.get("/v1/dead-letters", params={"limit": 2}).json()
    assert [letter["id"] for letter in first["items"]] == ["a:0", "b:0"]
    rest = reader.get("/v1/dead-letters", params={"limit": 2, "cursor": first["next"]}).json()
    assert ([letter["id"] for letter in rest["items"]], rest["next"]) == (["c:4"], None)
    assert reader.get("/v1/dead-letters", params={"limit": 501}).json()["field"] == "limit"


def test_a_letter_shows_what_it_carries(quiet: House) -> None:
    seen = quiet.caller("reader").get("/v1/dead-letters/c:4").json()
    assert (seen["batch"], seen["first"], seen["samples"], seen["retried_as"]) == ("c", 4, 2, None)
    assert (seen["shape"], seen["dtype"], seen["labels"]) == ([2, 2, 2], "float32", [0, 1])
    assert (seen["sample_ids"], seen["error"]) == (["one", "two"], "ArithmeticError: no such kernel")


def test_a_retry_is_a_new_batch_of_the_same_producer_once(quiet: House) -> None:
    reviewer = quiet.caller("reviewer")
    sent = reviewer.post("/v1/dead-letters/b:0/retry")
    assert (sent.status_code, sent.json()["samples"]) == (202, 2)
    entry = quiet.stores.log.get(sent.json()["batch"])
    assert (entry.kind, entry.producer, entry.samples) == (EntryKind.BATCH, "bob", 2)
    assert codec.load(entry.payload).x.equal(samples(2, seed=9)[0])
    assert quiet.stores.dead_letters.get("b:0").retried_as == entry.id
    assert quiet.stores.dead_letters.waiting() == 2
    (record,) = quiet.stores.audit.recent(5)
    assert (record.actor, record.action, record.target) == ("reviewer", "retry", "b:0")
    assert record.detail == {"batch": entry.id}
    again = reviewer.post("/v1/dead-letters/b:0/retry")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert entry.id in again.json()["detail"]
    assert (quiet.stores.log.tail(), len(quiet.stores.audit.recent(5))) == (entry.position, 1)


def test_a_retry_that_broke_off_after_the_log_is_completed_and_not_sent_twice(
    quiet: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise OSError("the machine went away")

    with monkeypatch.context() as patch:
        patch.setattr(quiet.stores.dead_letters, "retried", dies)
        assert quiet.caller("admin").post("/v1/dead-letters/a:0/retry").status_code == 500
    tail = quiet.stores.log.tail()
    assert quiet.caller("admin").post("/v1/dead-letters/a:0/retry").status_code == 202
    assert quiet.stores.log.tail() == tail == 1


def test_a_retry_that_finds_no_room_leaves_the_letter_waiting(quiet: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise LogFull(2, "9 batches")

    monkeypatch.setattr(quiet.stores.log, "append", full)
    assert quiet.caller("admin").post("/v1/dead-letters/a:0/retry").status_code == 503
    assert quiet.stores.dead_letters.waiting() == 3
    assert quiet.stores.audit.recent(5) == []


def test_a_dropped_letter_is_gone_and_audited(quiet: House) -> None:
    assert quiet.caller("reviewer").delete("/v1/dead-letters/a:0").status_code == 204
    with pytest.raises(NotFound):
        quiet.stores.dead_letters.get("a:0")
    (record,) = quiet.stores.audit.recent(5)
    assert (record.actor, record.action, record.target) == ("reviewer", "drop", "a:0")
    assert record.detail == {"producer": "alice", "samples": 2}
    assert quiet.caller("reviewer").delete("/v1/dead-letters/a:0").status_code == 404


@pytest.mark.parametrize(("method", "action"), [("GET", ""), ("DELETE", ""), ("POST", "/retry")])
def test_an_unknown_letter_is_404(unmoved: House, method: str, action: str) -> None:
    answer = unmoved.caller("admin").request(method, f"/v1/dead-letters/none:0{action}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert unmoved.stores.audit.recent(5) == []


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("alice", "GET", "/v1/dead-letters"),
        ("alice", "GET", "/v1/dead-letters/a:0"),
        ("alice", "POST", "/v1/dead-letters/a:0/retry"),
        ("reader", "POST", "/v1/dead-letters/a:0/retry"),
        ("reader", "DELETE", "/v1/dead-letters/a:0"),
    ],
)
def test_letters_are_for_readers_and_what_becomes_of_them_for_reviewers(
    unmoved: House, name: str, method: str, path: str
) -> None:
    assert unmoved.caller(name).request(method, path).status_code == 403
