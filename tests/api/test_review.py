"""Review in bulk: what fits a filter, what would be done to it, and what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import NOW, House, Open, batch, held_sample

from weir.stores.base import EntryKind, HeldState
from weir.types import Reason


@pytest.fixture
def house(open_house: Open, tmp_path: Path) -> Any:
    """Three held samples of alice's and three of bob's, and nobody who learns."""
    with open_house(tmp_path, started=False) as house:
        house.hold(*(held_sample("a", index) for index in range(3)))
        house.hold(*(held_sample("b", index, producer="bob", reason=Reason.VETO) for index in range(3)))
        yield house


def review(house: House, by: str = "reviewer", **order: Any) -> dict[str, Any]:
    answer = house.caller(by).post("/v1/quarantine/bulk", json=order)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def states(house: House) -> dict[str, HeldState]:
    return {id: house.stores.quarantine.get(id).state for id in ("a:0", "a:1", "a:2", "b:0", "b:1", "b:2")}


def test_unless_told_otherwise_it_only_says_what_would_be_done(house: House) -> None:
    before, stand = states(house), house.stand()
    for action in ("release", "discard"):
        seen = review(house, action=action, filter={"producer": "bob"}, limit=2)
        assert seen == {
            "action": action,
            "dry_run": True,
            "ids": ["b:0", "b:1"],
            "producers": {"bob": 2},
            "reasons": {"veto": 2},
            "more": True,
            "state": None,
            "step": None,
            "refused": [],
        }
    assert review(house, action="discard")["producers"] == {"alice": 3, "bob": 3}
    assert (states(house), house.stand()) == (before, stand)
    assert house.stores.audit.recent(5) == []


def test_all_that_fit_are_discarded_and_audited_once(house: House) -> None:
    done = review(house, action="discard", filter={"reason": "veto"}, dry_run=False, note="junk")
    assert (done["ids"], done["state"], done["more"]) == (["b:0", "b:1", "b:2"], "discarded", False)
    assert [id for id, state in states(house).items() if state is HeldState.DISCARDED] == done["ids"]
    gone = house.stores.quarantine.get("b:1")
    assert (gone.resolved_by, gone.resolved_at, gone.note) == ("reviewer", NOW, "junk")
    (record,) = house.stores.audit.recent(5)
    assert (record.actor, record.action, record.target) == ("reviewer", "discard", "3 samples")
    assert record.detail == {"ids": done["ids"], "note": "junk"}
    assert house.stores.log.tail() == 0


def test_what_somebody_else_decided_first_is_told_and_left_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    page = house.stores.quarantine.page

    def raced(*arguments: Any) -> Any:
        found = page(*arguments)
        house.stores.quarantine.move("a:1", HeldState.RELEASED, expect=[HeldState.HELD])
        house.stores.quarantine.drop(["a:2"])
        return found

    monkeypatch.setattr(house.stores.quarantine, "page", raced)
    done = review(house, action="discard", filter={"producer": "alice"}, dry_run=False)
    assert done["ids"] == ["a:0"]
    assert [(refusal["id"], refusal["code"]) for refusal in done["refused"]] == [
        ("a:1", "conflict"),
        ("a:2", "not_found"),
    ]
    assert house.stores.quarantine.get("a:1").state is HeldState.RELEASED


def test_a_release_of_many_is_one_command_and_one_step(service_app: House) -> None:
    sent = service_app.send(batch(strange=3))
    ids, tail = [f"{sent['id']}:{index}" for index in range(3)], service_app.stores.log.tail()
    step = service_app.trainer.status.step
    done = review(service_app, "admin", action="release", dry_run=False, force=True, label=2, note="all fine")
    assert (done["ids"], done["state"], done["step"]) == (ids, "released", step + 1)
    assert service_app.stores.log.tail() == tail + 1
    for id in ids:
        held = service_app.stores.quarantine.get(id)
        assert (held.state, held.relabel, held.resolved_by, held.note) == ("released", 2, "admin", "all fine")
    (record,) = service_app.stores.audit.recent(5)
    assert (record.action, record.target, record.detail["ids"]) == ("release", "3 samples", ids)
    assert review(service_app, action="release", dry_run=False)["ids"] == []


def test_what_the_learner_passes_over_is_told(house: House) -> None:
    refusal = {"id": "a:1", "code": "conflict", "detail": "sample 'a:1' is discarded"}
    result = {"state": "released", "step": 7, "ids": ["a:0", "a:2"], "refused": [refusal]}
    with house.scripted({EntryKind.RELEASE: result}) as orders:
        done = review(house, action="release", filter={"producer": "alice"}, dry_run=False)
    assert orders == [{"ids": ["a:0", "a:1", "a:2"], "label": None, "force": False, "note": None, "by": "reviewer"}]
    assert (done["ids"], done["producers"], done["refused"], done["step"]) == (
        ["a:0", "a:2"],
        {"alice": 2},
        [refusal],
        7,
    )


def test_a_vetoed_release_is_found_only_by_who_may_force_it(house: House) -> None:
    house.stores.quarantine.move("a:0", HeldState.RELEASE_VETOED, expect=[HeldState.HELD])
    where = {"state": "release_vetoed"}
    assert review(house, "admin", action="release", filter=where, force=True)["ids"] == ["a:0"]
    assert review(house, action="discard", filter=where)["ids"] == ["a:0"]
    refused = house.caller("reviewer").post("/v1/quarantine/bulk", json={"action": "release", "filter": where})
    assert (refused.status_code, refused.json()["field"]) == (422, "filter.state")


@pytest.mark.parametrize(
    ("order", "status", "field"),
    [
        ({}, 422, "action"),
        ({"action": "erase"}, 422, "action"),
        ({"action": "discard", "limit": 0}, 422, "limit"),
        ({"action": "discard", "limit": 501}, 422, "limit"),
        ({"action": "discard", "filter": {"producr": "bob"}}, 422, "filter.producr"),
        ({"action": "discard", "filter": {"state": "released"}}, 422, "filter.state"),
        ({"action": "discard", "label": 1}, 422, "label"),
        ({"action": "discard", "force": True}, 422, "force"),
        ({"action": "release", "label": 3}, 422, "label"),
        ({"action": "release", "dry_run": "no"}, 422, "dry_run"),
        ({"action": "release", "force": True}, 403, None),
    ],
)
def test_an_order_that_cannot_be_changes_nothing(
    house: House, order: dict[str, Any], status: int, field: str | None
) -> None:
    before, stand = states(house), house.stand()
    answer = house.caller("reviewer").post("/v1/quarantine/bulk", json={"dry_run": False, **order})
    assert (answer.status_code, answer.json().get("field")) == (status, field)
    assert (states(house), house.stand()) == (before, stand)
    assert house.stores.audit.recent(5) == []


@pytest.mark.parametrize("name", ["alice", "reader"])
def test_only_reviewers_review(unmoved: House, name: str) -> None:
    assert unmoved.caller(name).post("/v1/quarantine/bulk", json={"action": "discard"}).status_code == 403
