"""Batches: taken, decided, followed; and what a producer may not see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.api.conftest import STEP_SIZE, House, Open, Scripted, batch

from weir.codec import SAFETENSORS, encode, load
from weir.stores.base import EntryKind

BINARY = {"Content-Type": SAFETENSORS}


def deliveries(house: House) -> dict[str, float]:
    """How many deliveries ended how, as a scraper reads it."""
    text = house.caller("reader").get("/metrics").text
    counted = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {s.labels["outcome"]: s.value for s in counted if s.name == "weir_batches_total" and s.value}


def test_a_batch_is_durable_when_202_is_said_and_then_learned(service_app: House) -> None:
    sent = batch(ids=tuple("abcdefgh"))
    answer = service_app.caller("alice").post("/v1/batches", content=encode(sent), headers=BINARY)
    assert answer.status_code == 202
    taken = answer.json()
    assert taken == {"id": taken["id"], "state": "queued", "samples": STEP_SIZE, "durability": "durable"}
    assert answer.headers["Location"] == f"/v1/batches/{taken['id']}"
    entry = service_app.stores.log.get(taken["id"])
    assert (entry.kind, entry.producer, entry.samples) == (EntryKind.BATCH, "alice", STEP_SIZE)
    assert load(entry.payload).x.equal(sent.x)
    assert service_app.stores.journal.wait(entry.id, STEP_SIZE, 20)
    assert service_app.caller("alice").get(answer.headers["Location"]).json()["state"] == "learned"


def test_json_gives_the_log_the_same_batch_as_safetensors(service_app: House) -> None:
    sent = batch(ids=tuple("abcdefgh"))
    body = {"x": sent.x.tolist(), "y": sent.y.tolist(), "ids": list(sent.ids or ())}
    as_json = service_app.caller("alice").post("/v1/batches", json=body).json()["id"]
    as_binary = service_app.caller("alice").post("/v1/batches", content=encode(sent), headers=BINARY).json()["id"]
    log = service_app.stores.log
    assert log.get(as_json).payload == log.get(as_binary).payload


def test_waiting_gives_readers_the_verdict_on_every_sample(service_app: House) -> None:
    ids = tuple("abcdefgh")
    decided = service_app.send(batch(strange=1, ids=ids), by="admin")
    assert decided["state"] == "partial"
    assert decided["counts"] == {"accept": STEP_SIZE - 1, "correct": 0, "quarantine": 1, "pending": 0}
    assert [verdict["id"] for verdict in decided["verdicts"]] == list(ids)
    suspected, clean = decided["verdicts"][0], decided["verdicts"][1]
    assert (suspected["index"], suspected["verdict"], suspected["reason"]) == (0, "quarantine", "sample")
    assert suspected["score"] > suspected["threshold"] > clean["score"]
    assert suspected["pvalue"] < clean["pvalue"]
    assert suspected["step"] == decided["step"] == service_app.trainer.status.step


def test_whoever_waits_makes_a_replica_attend_to_the_learner(service_app: House) -> None:
    learner = Scripted(service_app.trainer)
    told, learner.status = learner.status, replace(learner.status, position=0)
    learner.attend = lambda: setattr(learner, "status", told)
    service_app.behave(learner=learner)
    answer = service_app.caller("alice").post("/v1/batches?wait=20", content=encode(batch()), headers=BINARY)
    assert (answer.status_code, answer.json()["state"]) == (200, "learned")
    assert learner.status is told
    assert answer.elapsed.total_seconds() < 10


def test_a_producer_learns_state_and_counts_and_nothing_of_the_evidence(service_app: House) -> None:
    decided = service_app.send(batch(strange=1), by="alice")
    assert decided["counts"]["quarantine"] == 1
    assert decided["verdicts"] is None
    assert decided["step"] is None
    again = service_app.caller("alice").get(f"/v1/batches/{decided['id']}").json()
    assert again == decided
    for name in ("reader", "reviewer", "admin"):
        seen = service_app.caller(name).get(f"/v1/batches/{decided['id']}").json()
        assert len(seen["verdicts"]) == STEP_SIZE


def test_a_batch_that_is_not_decided_in_time_stays_queued(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, started=False) as house:
        answer = house.caller("alice").post("/v1/batches?wait=0.1", content=encode(batch()), headers=BINARY)
        assert answer.status_code == 202
        seen = house.caller("alice").get(answer.headers["Location"]).json()
    assert seen["state"] == "queued"
    assert seen["counts"] == {"accept": 0, "correct": 0, "quarantine": 0, "pending": STEP_SIZE}


def test_the_same_key_is_answered_again_and_not_taken_again(service_app: House) -> None:
    first = service_app.send(batch(), **{"Idempotency-Key": "one"})
    tail = service_app.stores.log.tail()
    again = service_app.caller("alice").post(
        "/v1/batches?wait=20", content=encode(batch()), headers={**BINARY, "Idempotency-Key": "one"}
    )
    assert (again.status_code, again.json()) == (200, first)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = service_app.send(batch(), by="bob", **{"Idempotency-Key": "one"})
    assert other["id"] != first["id"]
    assert service_app.stores.log.tail() == tail + 1


def test_a_long_body_is_taken_and_refused_as_a_short_one_is(
    service_app: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = service_app.send(batch())
    monkeypatch.setattr("weir.api.bodies._QUICK_BYTES", 0)
    second = service_app.send(batch())
    assert second["counts"] == first["counts"]
    taken = [service_app.stores.log.get(sent["id"]).payload for sent in (first, second)]
    assert taken == [encode(batch())] * 2
    assert service_app.caller("alice", **BINARY).post("/v1/batches", content=b"x").status_code == 422


def test_a_rolled_back_batch_says_so(service_app: House) -> None:
    sent = service_app.send(batch())
    checkpoint = service_app.stores.checkpoints.all()[0].id
    service_app.caller("admin").post("/v1/rollback", json={"checkpoint": checkpoint})
    assert service_app.caller("alice").get(f"/v1/batches/{sent['id']}").json()["state"] == "rolled_back"


def test_a_batch_that_is_held_as_a_whole_is_held(service_app: House) -> None:
    assert service_app.send(batch(strange=STEP_SIZE))["state"] == "held"


def test_deliveries_are_counted_by_how_they_ended(service_app: House) -> None:
    service_app.send(batch(), **{"Idempotency-Key": "one"})
    alice = service_app.caller("alice", **BINARY)
    alice.post("/v1/batches", content=encode(batch(seed=2)), headers={"Idempotency-Key": "one"})
    alice.post("/v1/batches", content=b"")
    alice.post("/v1/batches?wait=soon", content=encode(batch()))
    service_app.caller("reader", **BINARY).post("/v1/batches", content=encode(batch()))
    assert deliveries(service_app) == {"taken": 1, "conflict": 1, "invalid": 2, "denied": 1}


def test_a_full_log_is_503_with_the_time_to_try_again(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, started=False, max_batches=1) as house:
        alice = house.caller("alice", **BINARY)
        assert alice.post("/v1/batches", content=encode(batch())).status_code == 202
        before = house.stand()
        answer = alice.post("/v1/batches", content=encode(batch()))
        assert (answer.status_code, answer.json()["code"]) == (503, "log_full")
        assert int(answer.headers["Retry-After"]) >= 1
        assert house.stand() == before
        assert deliveries(house) == {"taken": 1, "busy": 1}


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon"])
def test_a_wait_out_of_range_is_refused(unmoved: House, wait: str) -> None:
    before = unmoved.stand()
    answer = unmoved.caller("alice").post(f"/v1/batches?wait={wait}", content=encode(batch()), headers=BINARY)
    assert (answer.status_code, answer.json()["field"]) == (422, "wait")
    assert unmoved.stand() == before
