"""The quarantine: listing, looking, releasing, discarding, and who did what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
import torch
from tests.api.conftest import NOW, House, Open, batch, held_sample

from weir.api.service import Limits
from weir.errors import StorageFailed
from weir.stores.base import EntryKind, Held, HeldFilter, HeldState


def listed(house: House, **where: Any) -> list[str]:
    """The ids of a filtered listing."""
    answer = house.caller("reader").get("/v1/quarantine", params=where)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_every_held_sample_is_listed_once_page_by_page(service_app: House) -> None:
    sent = service_app.send(batch(strange=5))
    ids: list[str] = []
    where: dict[str, str | int] = {"limit": 2}
    for expected in (2, 2, 1):
        page = service_app.caller("reader").get("/v1/quarantine", params=where).json()
        ids += [item["id"] for item in page["items"]]
        where["cursor"] = page["next"]
        assert len(page["items"]) == expected
    assert page["next"] is None
    assert ids == [f"{sent['id']}:{index}" for index in range(5)]


def test_filters_keep_what_fits_them(service_app: House) -> None:
    ours, theirs = service_app.send(batch(strange=1)), service_app.send(batch(strange=2, seed=2), by="bob")
    a, b, c = f"{ours['id']}:0", f"{theirs['id']}:0", f"{theirs['id']}:1"
    assert listed(service_app) == [a, b, c]
    assert listed(service_app, producer="bob") == [b, c]
    assert listed(service_app, batch=ours["id"]) == [a]
    assert listed(service_app, label=1) == [c]
    assert listed(service_app, reason="veto") == []
    service_app.caller("reviewer").post(f"/v1/quarantine/{b}/discard")
    assert listed(service_app, state="held") == [a, c]
    assert listed(service_app, state="discarded") == [b]


def test_a_held_sample_shows_its_data_and_its_evidence(service_app: House) -> None:
    sent = batch(strange=1, ids=tuple("abcdefgh"))
    held = service_app.send(sent)
    seen = service_app.caller("reviewer").get(f"/v1/quarantine/{held['id']}:0").json()
    assert torch.tensor(seen["x"]).equal(sent.x[0])
    assert (seen["dtype"], seen["label"], seen["sample_id"]) == ("float32", 0, "a")
    assert (seen["producer"], seen["batch"], seen["index"], seen["state"]) == ("alice", held["id"], 0, "held")
    assert (seen["verdict"], seen["reason"]) == ("quarantine", "sample")
    assert seen["score"] > seen["threshold"]


def test_a_released_sample_is_learned_with_the_reviewers_label_and_audited(service_app: House) -> None:
    sample = service_app.hold_one()
    updates = service_app.trainer.status.updates
    answer = service_app.caller("reviewer").post(
        f"/v1/quarantine/{sample}/release", json={"label": 1, "note": "a slip of the pen"}
    )
    assert (answer.status_code, answer.json()["state"], answer.json()["id"]) == (200, "released", sample)
    held = service_app.stores.quarantine.get(sample)
    assert (held.state, held.relabel, held.resolved_by) == (HeldState.RELEASED, 1, "reviewer")
    assert held.note == "a slip of the pen"
    assert service_app.trainer.engine.updates == updates + 1
    (record,) = service_app.stores.audit.recent(5)
    assert (record.at, record.actor, record.action, record.target) == (NOW, "reviewer", "release", sample)
    assert record.detail["label"] == 1


def test_a_release_needs_no_body(service_app: House) -> None:
    sample = service_app.hold_one()
    answer = service_app.caller("reviewer").post(f"/v1/quarantine/{sample}/release")
    assert (answer.status_code, answer.json()["state"]) in [(200, "released"), (200, "release_vetoed")]


def test_a_discarded_sample_is_never_learned_and_audited(service_app: House) -> None:
    sample = service_app.hold_one()
    tail = service_app.stores.log.tail()
    answer = service_app.caller("reviewer").post(f"/v1/quarantine/{sample}/discard", json={"note": "junk"})
    assert (answer.status_code, answer.json()["state"]) == (200, "discarded")
    held = service_app.stores.quarantine.get(sample)
    assert (held.state, held.resolved_by, held.resolved_at, held.note) == ("discarded", "reviewer", NOW, "junk")
    (record,) = service_app.stores.audit.recent(5)
    assert (record.actor, record.action, record.target) == ("reviewer", "discard", sample)
    assert record.detail == {"note": "junk"}
    assert service_app.stores.log.tail() == tail


@pytest.mark.parametrize("second", ["release", "discard"])
def test_a_sample_is_resolved_once(service_app: House, second: str) -> None:
    sample = service_app.hold_one()
    reviewer = service_app.caller("reviewer")
    assert reviewer.post(f"/v1/quarantine/{sample}/discard").status_code == 200
    before = service_app.stand()
    answer = reviewer.post(f"/v1/quarantine/{sample}/{second}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert service_app.stores.quarantine.get(sample).state is HeldState.DISCARDED
    assert service_app.stand() == before
    assert len(service_app.stores.audit.recent(5)) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"label": 3}, "label"),
        ({"label": -1}, "label"),
        ({"label": "1"}, "label"),
        ({"label": 1.5}, "label"),
        ({"lable": 1}, "lable"),
        ({"note": 7}, "note"),
        ([], "body"),
    ],
)
def test_a_release_that_cannot_be_is_refused_before_anything_happens(
    service_app: House, body: object, field: str
) -> None:
    sample = service_app.hold_one()
    before = service_app.stand()
    answer = service_app.caller("reviewer").post(f"/v1/quarantine/{sample}/release", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert service_app.stores.quarantine.get(sample).state is HeldState.HELD
    assert service_app.stand() == before
    assert service_app.stores.audit.recent(5) == []


def test_only_an_admin_may_force(service_app: House) -> None:
    sample = service_app.hold_one()
    path = f"/v1/quarantine/{sample}/release"
    answer = service_app.caller("reviewer").post(path, json={"force": True})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert service_app.stores.quarantine.get(sample).state is HeldState.HELD
    assert service_app.caller("admin").post(path, json={"force": True, "label": 0}).status_code == 200


def test_a_release_is_refused_while_no_trainer_could_learn_it(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        sample = house.hold_one()
        house.trainer.stop()
        before = house.stand()
        answer = house.caller("reviewer").post(f"/v1/quarantine/{sample}/release")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        held = house.stores.quarantine.get(sample)
        assert (held.state, held.resolved_by) == (HeldState.HELD, None)
        assert house.stand() == before


def test_a_release_that_cannot_be_logged_leaves_the_sample_held(
    service_app: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = service_app.hold_one()

    def full(*_: object, **__: object) -> NoReturn:
        raise StorageFailed("the disk is full")

    monkeypatch.setattr(service_app.stores.log, "append", full)
    answer = service_app.caller("reviewer").post(f"/v1/quarantine/{sample}/release")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
    assert service_app.stores.quarantine.get(sample).state is HeldState.HELD


def test_a_release_that_the_learner_does_not_get_to_is_queued(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, limits=Limits(command_seconds=0.1)) as house:
        sample = house.hold_one()
        house.stall()
        answer = house.caller("reviewer").post(f"/v1/quarantine/{sample}/release")
        assert answer.status_code == 202
        assert answer.json()["state"] == "queued"
        entry = house.stores.log.get(answer.json()["id"])
        assert (entry.kind, entry.producer) == (EntryKind.RELEASE, "reviewer")
        assert json.loads(entry.payload) == {
            "ids": [sample],
            "label": None,
            "force": False,
            "note": None,
            "by": "reviewer",
        }
        assert house.stores.quarantine.get(sample).state is HeldState.HELD
        again = house.caller("reviewer").post(f"/v1/quarantine/{sample}/release")
        assert again.status_code == 202
        house.go_on.set()
        house.send(batch())  # it lies behind both
        assert house.stores.quarantine.get(sample).state in (HeldState.RELEASED, HeldState.RELEASE_VETOED)
        second = house.stores.journal.outcome(again.json()["id"])
        assert second is not None
        assert second["error"]["code"] == "conflict"


def test_a_released_sample_is_never_learned_twice(service_app: House) -> None:
    sample = service_app.hold_one()
    path = f"/v1/quarantine/{sample}/release"
    assert service_app.caller("admin").post(path, json={"force": True}).json()["state"] == "released"
    before = service_app.stand()
    for body in ({}, {"force": True}):
        again = service_app.caller("admin").post(path, json=body)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert "nothing is learned twice" in again.json()["detail"]
    assert service_app.stand() == before


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"error": {"code": "conflict", "detail": "sample 'b:0' is released"}}, 409),
        ({"error": {"code": "not_found", "detail": "no held sample has the id 'b:0'"}}, 404),
        (
            {
                "state": None,
                "step": 1,
                "ids": [],
                "refused": [{"id": "b:0", "code": "conflict", "detail": "it is released"}],
            },
            409,
        ),
    ],
)
def test_what_the_learner_refuses_at_its_turn_is_refused(
    open_house: Open, tmp_path: Path, answer: dict[str, Any], status: int
) -> None:
    with open_house(tmp_path, started=False) as house:
        house.hold(held_sample("b", 0))
        with house.scripted({EntryKind.RELEASE: answer}):
            refused = house.caller("reviewer").post("/v1/quarantine/b:0/release")
        assert refused.status_code == status
        assert house.stores.quarantine.get("b:0").state is HeldState.HELD


def test_the_export_has_every_sample_that_fits_with_its_data(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, limits=Limits(page_size=2)) as house:
        sent, other = house.send(batch(strange=5)), house.send(batch(strange=1, seed=2), by="bob")
        answer = house.caller("reviewer").get("/v1/quarantine/export")
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.text.splitlines()]
        ids = [f"{sent['id']}:{index}" for index in range(5)]
        assert [line["id"] for line in lines] == [*ids, f"{other['id']}:0"]
        assert lines[3] == house.caller("reviewer").get(f"/v1/quarantine/{ids[3]}").json()
        bobs = house.caller("reader").get("/v1/quarantine/export", params={"producer": "bob"}).text
        assert [json.loads(line)["id"] for line in bobs.splitlines()] == [f"{other['id']}:0"]
        assert house.caller("reader").get("/v1/quarantine/export", params={"state": "discarded"}).text == ""


def test_an_export_reads_one_page_at_a_time_and_passes_over_what_was_deleted(
    open_house: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_house(tmp_path, started=False, limits=Limits(page_size=2)) as house:
        house.hold(*(held_sample("b", index) for index in range(5)))
        page, asked = house.stores.quarantine.page, []

        def watched(where: HeldFilter, after: str | None, limit: int) -> tuple[list[Held], str | None]:
            asked.append(limit)
            found = page(where, after, limit)
            house.stores.quarantine.drop(["b:1"])
            return found

        monkeypatch.setattr(house.stores.quarantine, "page", watched)
        lines = house.caller("reader").get("/v1/quarantine/export").text.splitlines()
        assert [json.loads(line)["id"] for line in lines] == ["b:0", "b:2", "b:3", "b:4"]
        assert asked == [2, 2, 2]


def test_an_export_that_breaks_is_cut_and_not_ended(
    open_house: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_house(tmp_path, started=False, limits=Limits(page_size=1)) as house:
        house.hold(held_sample("b", 0), held_sample("b", 1))
        get = house.stores.quarantine.get

        def broken(id: str) -> Held:
            if id == "b:1":
                raise StorageFailed("the disk is gone")
            return get(id)

        monkeypatch.setattr(house.stores.quarantine, "get", broken)
        with pytest.raises(httpx.RemoteProtocolError):
            house.caller("reader").get("/v1/quarantine/export")


@pytest.mark.parametrize("where", [{"limit": 0}, {"limit": 501}, {"cursor": "x"}, {"state": "lost"}, {"reason": "-"}])
def test_a_filter_that_means_nothing_is_refused(unmoved: House, where: dict[str, str]) -> None:
    answer = unmoved.caller("reader").get("/v1/quarantine", params=where)
    assert (answer.status_code, answer.json()["field"]) == (422, next(iter(where)))


@pytest.mark.parametrize(("method", "action"), [("GET", ""), ("POST", "/release"), ("POST", "/discard")])
def test_an_unknown_sample_is_404(unmoved: House, method: str, action: str) -> None:
    before = unmoved.stand()
    answer = unmoved.caller("admin").request(method, f"/v1/quarantine/b_0:0{action}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert unmoved.stand() == before


@pytest.mark.parametrize("name", ["alice", "reader"])
@pytest.mark.parametrize("action", ["release", "discard"])
def test_only_reviewers_resolve(unmoved: House, name: str, action: str) -> None:
    assert unmoved.caller(name).post(f"/v1/quarantine/b_0:0/{action}").status_code == 403


def test_producers_see_nothing_of_the_quarantine(unmoved: House) -> None:
    for path in ("/v1/quarantine", "/v1/quarantine/b_0:0", "/v1/quarantine/export"):
        assert unmoved.caller("alice").get(path).status_code == 403
