"""Checkpoints: saved on request, and the way back to one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.api.conftest import House, Open, batch, samples

from weir.api.service import Limits


def test_a_checkpoint_is_saved_listed_and_audited(service_app: House) -> None:
    answer = service_app.caller("admin").post("/v1/checkpoints", json={"reason": "before the fair"})
    assert answer.status_code == 201
    saved = answer.json()
    assert saved["reason"] == "before the fair"
    assert service_app.caller("reader").get("/v1/checkpoints").json()["items"][-1] == saved
    info, _ = service_app.stores.checkpoints.load(saved["id"])
    assert saved["cursor"] == {"position": info.cursor.position, "offset": info.cursor.offset}
    (record,) = service_app.stores.audit.recent(5)
    assert (record.actor, record.action, record.detail["reason"]) == ("admin", "checkpoint", "before the fair")


def test_a_rollback_brings_the_old_weights_back_and_is_audited(service_app: House) -> None:
    reader, x = service_app.caller("reader"), samples(2, seed=4)[0]
    old = service_app.trainer.publication.predict(x)
    first = service_app.stores.checkpoints.all()[0].id
    service_app.send(batch())
    answer = service_app.caller("admin").post("/v1/rollback", json={"checkpoint": first})
    assert answer.status_code == 200
    done = answer.json()
    assert done["restored"] == first
    assert done["steps"] >= 1
    assert done["checkpoint"] in [item["id"] for item in reader.get("/v1/checkpoints").json()["items"]]
    assert service_app.trainer.engine.predict(x).equal(old)
    (record,) = service_app.stores.audit.recent(5)
    assert (record.actor, record.action, record.target) == ("admin", "rollback", first)


def test_a_command_that_the_learner_does_not_get_to_is_queued(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, limits=Limits(command_seconds=0.1)) as house:
        house.stall()
        answer = house.caller("admin").post("/v1/checkpoints")
        assert (answer.status_code, answer.json()["state"]) == (202, "queued")
        house.go_on.set()
        assert house.stores.journal.wait(answer.json()["id"], 0, 20)
        assert house.stores.checkpoints.all()[-1].reason == "manual"


def test_a_checkpoint_that_was_damaged_since_is_refused_without_details(service_app: House, tmp_path: Path) -> None:
    first = service_app.stores.checkpoints.all()[0].id
    tensors = tmp_path / "checkpoints" / first / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    before = service_app.trainer.publication
    answer = service_app.caller("admin").post("/v1/rollback", json={"checkpoint": first})
    assert (answer.status_code, answer.json()["code"]) == (500, "damaged_checkpoint")
    assert str(tmp_path) not in answer.text
    assert service_app.trainer.engine.predict(samples(2, seed=4)[0]).equal(before.predict(samples(2, seed=4)[0]))


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/rollback", {"checkpoint": "c0"}, 404, None),
        ("/v1/rollback", {"checkpoint": "../../etc"}, 404, None),
        ("/v1/rollback", {}, 422, "checkpoint"),
        ("/v1/rollback", {"checkpoint": 7}, 422, "checkpoint"),
        ("/v1/checkpoints", {"reason": ""}, 422, "reason"),
        ("/v1/checkpoints", {"reason": "x" * 201}, 422, "reason"),
        ("/v1/checkpoints", {"why": "x"}, 422, "why"),
    ],
)
def test_bad_commands_leave_everything_as_it_was(
    unmoved: House, path: str, body: object, status: int, field: str | None
) -> None:
    before, saved = unmoved.stand(), unmoved.stores.checkpoints.all()
    answer = unmoved.caller("admin").post(path, json=body)
    assert (answer.status_code, answer.json().get("field")) == (status, field)
    assert (unmoved.stand(), unmoved.stores.checkpoints.all()) == (before, saved)
    assert unmoved.stores.audit.recent(5) == []


@pytest.mark.parametrize("name", ["alice", "reader", "reviewer"])
@pytest.mark.parametrize("path", ["/v1/rollback", "/v1/checkpoints"])
def test_only_admins_command(unmoved: House, name: str, path: str) -> None:
    assert unmoved.caller(name).post(path, json={}).status_code == 403


def test_producers_do_not_see_the_checkpoints(unmoved: House) -> None:
    assert unmoved.caller("alice").get("/v1/checkpoints").status_code == 403


def test_a_checkpoint_is_replayable_as_long_as_the_log_reaches_back_to_it(service_app: House) -> None:
    reader = service_app.caller("reader")
    service_app.send(batch())
    service_app.caller("admin").post("/v1/checkpoints")
    listed = reader.get("/v1/checkpoints").json()
    assert (listed["floor"], [item["replayable"] for item in listed["items"]]) == (0, [True, True])
    service_app.stores.log.trim(1, keep_bytes=0)
    listed = reader.get("/v1/checkpoints").json()
    assert (listed["floor"], [item["replayable"] for item in listed["items"]]) == (1, [False, True])
