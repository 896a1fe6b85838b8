"""The guard's mode: told with its reason, changed by an admin."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.api.conftest import House, Open, batch


def test_the_mode_says_whether_the_guard_is_armed(service_app: House) -> None:
    seen = service_app.caller("reader").get("/v1/mode").json()
    assert seen == {"mode": "weir", "armed": True, "unarmed_because": None}


def test_in_observe_mode_nothing_is_held(service_app: House) -> None:
    answer = service_app.caller("admin").put("/v1/mode", json={"mode": "observe"})
    assert answer.status_code == 200
    assert (answer.json()["mode"], answer.json()["armed"]) == ("observe", False)
    assert service_app.send(batch(strange=4))["state"] == "learned"
    (record,) = service_app.stores.audit.recent(5)
    assert (record.actor, record.action, record.target) == ("admin", "mode", "observe")


@pytest.mark.parametrize("body", [{"mode": "sleep"}, {"mode": None}, {}])
def test_an_unknown_mode_is_refused(unmoved: House, body: object) -> None:
    before = unmoved.stand()
    answer = unmoved.caller("admin").put("/v1/mode", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "mode")
    assert unmoved.stand() == before


def test_a_command_is_refused_when_nobody_would_carry_it_out(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, started=False) as house:
        answer = house.caller("admin").put("/v1/mode", json={"mode": "off"})
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert house.stores.log.tail() == 0


@pytest.mark.parametrize("name", ["alice", "reader", "reviewer"])
def test_only_admins_change_it(unmoved: House, name: str) -> None:
    assert unmoved.caller(name).put("/v1/mode", json={"mode": "off"}).status_code == 403


def test_producers_do_not_see_it(unmoved: House) -> None:
    assert unmoved.caller("alice").get("/v1/mode").status_code == 403
