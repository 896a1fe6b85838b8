"""The probe set: seen in words, replaced by an admin, and never made worse by accident."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.api.conftest import NOW, House, samples

from weir.codec import SAFETENSORS, encode
from weir.stores.base import EntryKind
from weir.types import Batch

BINARY = {"Content-Type": SAFETENSORS}


def sent(n: int = 150, *, classes: int = 3, shape: tuple[int, ...] = (2, 2)) -> bytes:
    """A probe set with only so many classes in it."""
    x, y = samples(n, seed=21)
    kept = y < classes
    return encode(Batch(x[kept].reshape(-1, *shape), y[kept]))


def test_the_probe_set_is_told_in_words(service_app: House) -> None:
    seen = service_app.caller("reader").get("/v1/probe").json()
    assert (seen["size"], seen["per_class"], seen["source"]) == (400, [134, 133, 133], "tests")
    assert (seen["created_at"], seen["age_seconds"], seen["stale"]) == (NOW - 60, 60, False)


def test_an_admin_replaces_it_and_is_on_record(service_app: House) -> None:
    old = service_app.caller("reader").get("/v1/probe").json()
    answer = service_app.caller("admin").put("/v1/probe", content=sent(180), headers=BINARY)
    assert answer.status_code == 200
    new = answer.json()
    assert (new["size"], new["source"]) == (180, "admin")
    assert new["version"] != old["version"]
    probe = service_app.trainer.engine.probe
    assert probe is not None
    assert probe.version == new["version"]
    (record,) = service_app.stores.audit.recent(5)
    assert (record.actor, record.action) == ("admin", "probe")


def test_json_serves_as_well(service_app: House) -> None:
    x, y = samples(150, seed=22)
    answer = service_app.caller("admin").put("/v1/probe", json={"x": x.tolist(), "y": y.tolist()})
    assert (answer.status_code, answer.json()["size"]) == (200, 150)


def test_what_the_learner_refuses_is_told_in_its_words(service_app: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner has the last word: its own check stands behind the one at the door."""
    service = dataclasses.replace(service_app.app.state.service, check_probe=lambda sent: None)
    monkeypatch.setattr(service_app.app.state, "service", service)
    answer = service_app.caller("admin").put("/v1/probe", content=sent(30), headers=BINARY)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (422, "probe_too_small", "probe")
    assert service_app.stores.log.read(0, 5)[-1].kind is EntryKind.PROBE


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        (sent(shape=(4, 1)), "x", "wrong_shape"),
        (sent(classes=2), "probe", "probe_class_missing"),
        (sent(30), "probe", "probe_too_small"),
        (encode(Batch(torch.full((150, 2, 2), 0.5), torch.full((150,), 3))), "y[0]", "label_out_of_range"),
        (sent()[:-1], "body", "truncated"),
    ],
)
def test_a_probe_set_that_cannot_calibrate_is_refused_at_the_door(
    unmoved: House, body: bytes, field: str, code: str
) -> None:
    before, probe = unmoved.stand(), unmoved.trainer.status.probe
    answer = unmoved.caller("admin").put("/v1/probe", content=body, headers=BINARY)
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["field"], problem["code"]) == (422, field, code)
    assert (unmoved.stand(), unmoved.trainer.status.probe) == (before, probe)
    assert unmoved.stores.audit.recent(5) == []


@pytest.mark.parametrize("name", ["alice", "reader", "reviewer"])
def test_only_admins_replace_it(unmoved: House, name: str) -> None:
    assert unmoved.caller(name).put("/v1/probe", content=sent(), headers=BINARY).status_code == 403


def test_producers_do_not_see_it(unmoved: House) -> None:
    assert unmoved.caller("alice").get("/v1/probe").status_code == 403
