"""Producers: who sent what."""

from __future__ import annotations

from tests.api.conftest import STEP_SIZE, House, batch


def test_every_producers_record_is_told_by_the_name_of_its_key(service_app: House) -> None:
    service_app.send(batch(), by="alice")
    service_app.send(batch(strange=2, seed=2), by="bob")
    items = service_app.caller("reviewer").get("/v1/producers").json()["items"]
    seen = {item["producer"]: (item["seen"], item["held"], item["corrected"]) for item in items}
    assert seen == {"alice": (STEP_SIZE, 0, 0), "bob": (STEP_SIZE, 2, 0)}
    assert all(item["standing"] == "good" for item in items)


def test_a_header_does_not_change_who_a_key_belongs_to(service_app: House) -> None:
    sent = service_app.send(batch(), by="alice", **{"X-Weir-Producer": "bob"})
    assert sent["producer"] == "alice"


def test_producers_do_not_see_the_records(unmoved: House) -> None:
    assert unmoved.caller("alice").get("/v1/producers").status_code == 403
