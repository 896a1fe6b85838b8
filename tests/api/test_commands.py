"""Commands that are answered with 202: where they can be followed, and what is seen of them there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.api.conftest import House, Open, batch

from weir.api.service import Limits
from weir.core import Engine
from weir.stores.base import EntryKind
from weir.types import GuardMode


def test_a_command_is_done_with_its_result(service_app: House) -> None:
    answer = service_app.caller("admin").post("/v1/checkpoints", json={"reason": "for the record"})
    (entry,) = [e for e in service_app.stores.log.read(0, 100) if e.kind == "checkpoint"]
    seen = service_app.caller("reader").get(f"/v1/commands/{entry.id}").json()
    assert (seen["id"], seen["kind"], seen["by"], seen["state"]) == (entry.id, "checkpoint", "admin", "done")
    assert seen["result"]["id"] == answer.json()["id"]
    assert seen["error"] is None


def test_one_that_waits_is_queued_and_says_where_to_ask(
    open_house: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    real = Engine.set_mode

    def slow(engine: Engine, mode: GuardMode) -> None:
        assert go_on.wait(30.0)
        real(engine, mode)

    monkeypatch.setattr(Engine, "set_mode", slow)
    with open_house(tmp_path, limits=Limits(command_seconds=0.1)) as house:
        admin = house.caller("admin")
        answer = admin.put("/v1/mode", json={"mode": "observe"})
        where = answer.headers["Location"]
        assert (answer.status_code, where) == (202, f"/v1/commands/{answer.json()['id']}")
        assert (admin.get(where).json()["state"], admin.get(where).json()["result"]) == ("queued", None)
        go_on.set()
        assert house.stores.journal.wait(answer.json()["id"], 0, 30.0)
        done = admin.get(where).json()
        assert (done["state"], done["result"]["mode"]) == ("done", "observe")


def test_one_that_failed_says_why(service_app: House) -> None:
    refused = service_app.caller("admin").post("/v1/quarantine/b_none:0/release", json={})
    assert refused.status_code == 404
    order = b'{"ids": ["b_none:0"], "label": null, "force": false}'
    entry, _ = service_app.stores.log.append(EntryKind.RELEASE, "admin", order)
    assert service_app.stores.journal.wait(entry.id, 0, 30.0)
    seen = service_app.caller("admin").get(f"/v1/commands/{entry.id}").json()
    assert (seen["state"], seen["result"], seen["error"]["code"]) == ("failed", None, "not_found")


def test_what_failed_inside_stays_inside(service_app: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> None:
        raise ArithmeticError("secret of the house")

    monkeypatch.setattr(Engine, "set_mode", broken)
    assert service_app.caller("admin").put("/v1/mode", json={"mode": "observe"}).status_code == 500
    (entry,) = [e for e in service_app.stores.log.read(0, 100) if e.kind == "mode"]
    seen = service_app.caller("admin").get(f"/v1/commands/{entry.id}").json()
    assert seen["error"] == {"code": "command_failed"}


def test_a_batch_is_no_command(service_app: House) -> None:
    sent = service_app.send(batch())
    assert service_app.caller("admin").get(f"/v1/commands/{sent['id']}").status_code == 404
    assert service_app.caller("admin").get("/v1/commands/c_none").status_code == 404


def test_producers_do_not_see_them(unmoved: House) -> None:
    assert unmoved.caller("alice").get("/v1/commands/c_none").status_code == 403
