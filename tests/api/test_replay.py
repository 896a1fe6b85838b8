"""Replays: begun, followed, cancelled, published; and the model as it is without what was left out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.api.conftest import NOW, STEP_SIZE, House, Open, batch

from weir.errors import Conflict, NotFound
from weir.stores.base import EntryKind
from weir.types import ReplayOrder, ReplayReport, ReplayState, ReplayVerdicts

ORDER = ReplayOrder("c1", ("bob",), (), ("b:1",))
RUNNING = ReplayReport("r1", ORDER, ReplayState.RUNNING, "admin", NOW, start=2, end=9, position=4, steps=2)
DONE = replace(RUNNING, state=ReplayState.DONE, position=9, accuracy=0.9, accuracy_now=0.8, candidate="k1", left_out=3)


class Jobs:
    """Replays that stand where a test puts them."""

    def __init__(self, *reports: ReplayReport) -> None:
        self.reports = {report.id: report for report in reports}
        self.started: list[tuple[ReplayOrder, str]] = []

    def start(self, order: ReplayOrder, by: str) -> ReplayReport:
        """Begin one; the checkpoint ``gone`` is not there."""
        if order.checkpoint == "gone":
            raise NotFound("checkpoint", order.checkpoint)
        if any(report.state is ReplayState.RUNNING for report in self.reports.values()):
            raise Conflict("a replay is running: wait for it, or cancel it")
        self.started.append((order, by))
        self.reports["r1"] = replace(RUNNING, order=order, by=by)
        return self.reports["r1"]

    def get(self, id: str) -> ReplayReport:
        """One replay; raises NotFound."""
        if id not in self.reports:
            raise NotFound("replay", id)
        return self.reports[id]

    def all(self) -> list[ReplayReport]:
        """All of them."""
        return list(self.reports.values())

    def cancel(self, id: str) -> ReplayReport:
        """Stop one."""
        if self.get(id).state is not ReplayState.RUNNING:
            raise Conflict(f"the replay {id!r} has ended: there is nothing to cancel")
        self.reports[id] = replace(self.reports[id], state=ReplayState.CANCELLED)
        return self.reports[id]


@pytest.fixture
def house(open_house: Open, tmp_path: Path) -> Any:
    """A service whose learner and replays are played."""
    with open_house(tmp_path, started=False) as house:
        yield house


def test_what_one_producer_sent_is_taken_out_of_the_model(service_app: House, open_house: Open, tmp_path: Path) -> None:
    admin, first = service_app.caller("admin"), service_app.stores.checkpoints.all()[0].id
    service_app.send(batch(seed=1))
    service_app.send(batch(seed=2), by="bob")
    service_app.send(batch(seed=3))
    begun = admin.post("/v1/replay", json={"checkpoint": first, "producers": ["bob"]})
    assert begun.status_code == 202
    deadline = time.monotonic() + 20
    while (seen := admin.get(begun.headers["Location"]).json())["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (seen["state"], seen["left_out"], seen["learned"]) == ("done", STEP_SIZE, 2 * STEP_SIZE)
    assert (seen["position"], seen["end"], seen["order"]["producers"]) == (3, 3, ["bob"])
    assert 0 <= seen["accuracy"] <= 1
    before = service_app.trainer.publication.weights
    published = admin.post(f"{begun.headers['Location']}/publish")
    assert published.status_code == 200, published.text
    told = published.json()
    assert (told["left_out"], told["accuracy_before"]) == (STEP_SIZE, seen["accuracy_now"])
    assert told["checkpoint"] == service_app.stores.checkpoints.all()[-1].id
    after = service_app.trainer.publication.weights
    assert not all(before[name].equal(after[name]) for name in before)
    (tmp_path / "without").mkdir()
    with open_house(tmp_path / "without") as without:
        without.send(batch(seed=1))
        without.send(batch(seed=3))
        straight = without.trainer.publication.weights
    assert all(torch.allclose(after[name], straight[name]) for name in after)


def test_a_start_carries_the_order_and_is_audited(house: House) -> None:
    jobs = Jobs()
    house.behave(replays=jobs)
    order = {
        "checkpoint": "c1",
        "producers": ["bob"],
        "batches": ["b"],
        "samples": ["b:1"],
        "verdicts": "anew",
    }
    answer = house.caller("admin").post("/v1/replay", json=order)
    assert (answer.status_code, answer.headers["Location"]) == (202, "/v1/replay/r1")
    assert (answer.json()["state"], answer.json()["by"], answer.json()["order"]) == ("running", "admin", order)
    assert jobs.started == [(ReplayOrder("c1", ("bob",), ("b",), ("b:1",), ReplayVerdicts.ANEW), "admin")]
    (record,) = house.stores.audit.recent(5)
    assert (record.actor, record.action, record.target) == ("admin", "replay_start", "r1")
    assert record.detail["producers"] == ["bob"]
    again = house.caller("admin").post("/v1/replay", json=order)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert len(house.stores.audit.recent(5)) == 1


def test_replays_are_listed_the_newest_last(house: House) -> None:
    house.behave(replays=Jobs(*(replace(DONE, id=f"r{number}") for number in range(4))))
    reader = house.caller("reader")
    assert [item["id"] for item in reader.get("/v1/replay").json()["items"]] == ["r0", "r1", "r2", "r3"]
    newest = reader.get("/v1/replay", params={"limit": 2}).json()["items"]
    assert [item["id"] for item in newest] == ["r2", "r3"]
    assert reader.get("/v1/replay/r2").json() == newest[0]
    assert (newest[0]["accuracy"], newest[0]["accuracy_now"], newest[0]["position"]) == (0.9, 0.8, 9)


def test_many_discarded_samples_are_not_all_shown(house: House) -> None:
    order = replace(ORDER, samples=tuple(f"b:{index}" for index in range(2_000)))
    house.behave(replays=Jobs(replace(DONE, order=order)))
    assert len(house.caller("reader").get("/v1/replay/r1").json()["order"]["samples"]) == 500


def test_a_cancelled_replay_is_audited_and_cannot_be_published(house: House) -> None:
    house.behave(replays=Jobs(RUNNING))
    admin = house.caller("admin")
    early = admin.post("/v1/replay/r1/publish")
    assert (early.status_code, "still running" in early.json()["detail"]) == (409, True)
    assert admin.post("/v1/replay/r1/cancel").json()["state"] == "cancelled"
    (record,) = house.stores.audit.recent(5)
    assert (record.action, record.target) == ("replay_cancel", "r1")
    assert admin.post("/v1/replay/r1/cancel").status_code == 409
    late = admin.post("/v1/replay/r1/publish")
    assert (late.status_code, "was cancelled" in late.json()["detail"]) == (409, True)
    assert house.stores.log.tail() == 0
    assert len(house.stores.audit.recent(5)) == 1


def test_publishing_is_one_audited_command(house: House) -> None:
    house.behave(replays=Jobs(DONE))
    result = {"candidate": "k1", "checkpoint": "c9", "step": 12, "accuracy": 0.9, "accuracy_before": 0.8, "left_out": 3}
    with house.scripted({EntryKind.REPLAY: result}) as orders:
        answer = house.caller("admin").post("/v1/replay/r1/publish")
    assert (answer.status_code, answer.json()) == (200, result)
    order = {"checkpoint": "c1", "producers": ["bob"], "batches": [], "samples": ["b:1"], "verdicts": "recorded"}
    assert orders == [{"candidate": "k1", "order": order, "by": "admin"}]
    (record,) = house.stores.audit.recent(5)
    assert (record.actor, record.action, record.target) == ("admin", "replay", "r1")


def test_a_candidate_that_is_gone_when_its_turn_comes_is_told(house: House) -> None:
    house.behave(replays=Jobs(DONE))
    gone = {"error": {"code": "not_found", "detail": "no candidate has the id 'k1'"}}
    with house.scripted({EntryKind.REPLAY: gone}):
        answer = house.caller("admin").post("/v1/replay/r1/publish")
    assert (answer.status_code, answer.json()["detail"]) == (404, "no candidate has the id 'k1'")


@pytest.mark.parametrize(
    ("order", "status", "field"),
    [
        ({}, 422, "checkpoint"),
        ({"checkpoint": "gone"}, 404, None),
        ({"checkpoint": "c1", "producers": "bob"}, 422, "producers"),
        ({"checkpoint": "c1", "samples": ["b"]}, 422, "samples.0"),
        ({"checkpoint": "c1", "batches": [""]}, 422, "batches.0"),
        ({"checkpoint": "c1", "batches": ["b"] * 501}, 422, "batches"),
        ({"checkpoint": "c1", "verdicts": "new"}, 422, "verdicts"),
        ({"checkpoint": "c1", "producer": "bob"}, 422, "producer"),
    ],
)
def test_an_order_that_cannot_be_begins_nothing(
    house: House, order: dict[str, Any], status: int, field: str | None
) -> None:
    jobs = Jobs()
    house.behave(replays=jobs)
    answer = house.caller("admin").post("/v1/replay", json=order)
    assert (answer.status_code, answer.json().get("field")) == (status, field)
    assert (jobs.started, house.stores.audit.recent(5)) == ([], [])


@pytest.mark.parametrize(("method", "action"), [("GET", ""), ("POST", "/cancel"), ("POST", "/publish")])
def test_an_unknown_replay_is_404(unmoved: House, method: str, action: str) -> None:
    answer = unmoved.caller("admin").request(method, f"/v1/replay/none{action}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert unmoved.stores.audit.recent(5) == []


def test_replays_are_for_admins_and_readers_watch(unmoved: House) -> None:
    for name in ("alice", "reader", "reviewer"):
        for path in ("/v1/replay", "/v1/replay/r1/cancel", "/v1/replay/r1/publish"):
            assert unmoved.caller(name).post(path, json={}).status_code == 403
    assert unmoved.caller("alice").get("/v1/replay").status_code == 403
    assert unmoved.caller("reader").get("/v1/replay").status_code == 200
