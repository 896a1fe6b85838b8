"""Erasure: how much there is, and what is left when it is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import STEP_SIZE, House, Open, batch, dead_letter, held_sample

from weir import codec
from weir.errors import NotFound
from weir.stores.base import EntryKind


def erase(house: House, **order: Any) -> dict[str, Any]:
    answer = house.caller("admin").post("/v1/erase", json=order)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def counts(body: dict[str, Any]) -> tuple[int, ...]:
    return tuple(body[name] for name in ("entries", "samples", "quarantine", "dead_letters"))


def test_a_dry_run_counts_and_changes_nothing(service_app: House) -> None:
    first, second = service_app.send(batch(strange=2)), service_app.send(batch(seed=2))
    service_app.send(batch(strange=1, seed=3), by="bob")
    service_app.stores.dead_letters.put(dead_letter("x"))
    service_app.stores.dead_letters.put(dead_letter(first["id"], 6))
    before = service_app.stand()
    assert counts(erase(service_app, producer="alice")) == (2, 2 * STEP_SIZE, 2, 2)
    assert counts(erase(service_app, batch=first["id"])) == (1, STEP_SIZE, 2, 1)
    assert counts(erase(service_app, batch=second["id"], dry_run=True)) == (1, STEP_SIZE, 0, 0)
    assert counts(erase(service_app, sample=f"{first['id']}:1")) == (1, 1, 1, 0)
    assert counts(erase(service_app, sample=f"{first['id']}:6")) == (1, 1, 0, 1), "a letter goes whole"
    assert counts(erase(service_app, producer="nobody")) == (0, 0, 0, 0)
    assert erase(service_app, producer="bob")["checkpoints"] is None
    assert service_app.stand() == before
    assert service_app.stores.audit.recent(5) == []


def test_an_erased_sample_is_nowhere_and_its_neighbours_keep_their_names(service_app: House) -> None:
    sent = service_app.send(batch(strange=2, ids=tuple("abcdefgh")), by="admin")
    target = f"{sent['id']}:1"
    found = erase(service_app, sample=target)
    done = erase(service_app, sample=target, dry_run=False)
    assert (counts(done), done["dry_run"]) == (counts(found), False)
    assert done["checkpoint"] in [info.id for info in service_app.stores.checkpoints.all()]
    service_app.send(batch(seed=4))  # it lies behind the erasure
    with pytest.raises(NotFound):
        service_app.stores.quarantine.get(target)
    kept = codec.load_kept(service_app.stores.log.get(sent["id"]).payload)[1]
    assert list(kept) == [0, *range(2, STEP_SIZE)]
    verdicts = service_app.caller("reader").get(f"/v1/batches/{sent['id']}").json()["verdicts"]
    assert [line["id"] for line in verdicts] == ["a", None, *"cdefgh"]
    record = service_app.stores.audit.recent(1)[0]
    assert (record.actor, record.action, record.target) == ("admin", "erase", f"sample {target}")
    assert counts(erase(service_app, sample=target)) == (0, 0, 0, 0)


def test_weights_that_learned_it_are_named(service_app: House) -> None:
    service_app.send(batch())
    saved = service_app.caller("admin").post("/v1/checkpoints").json()["id"]
    done = erase(service_app, producer="alice", dry_run=False)
    assert saved in done["checkpoints"]
    assert service_app.stores.checkpoints.all()[0].id not in done["checkpoints"]


def test_the_command_names_its_one_target(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, started=False) as house:
        house.hold(held_sample("b", 0))
        result = {"entries": 1, "samples": 2, "quarantine": 1, "dead_letters": 0, "checkpoints": ["c1"]}
        with house.scripted({EntryKind.ERASE: result}) as orders:
            done = erase(house, batch="b", dry_run=False)
        assert orders == [{"batch": "b", "by": "admin"}]
        assert (counts(done), done["checkpoints"]) == ((1, 2, 1, 0), ["c1"])


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({}, "body"),
        ({"producer": "a", "batch": "b"}, "body"),
        ({"producer": ""}, "producer"),
        ({"sample": "b"}, "sample"),
        ({"sample": "b:x"}, "sample"),
        ({"sample": "b:-1"}, "sample"),
        ({"sample": ":1"}, "sample"),
        ({"producer": 7}, "producer"),
        ({"producer": "a", "dry_run": "no"}, "dry_run"),
    ],
)
def test_an_order_that_names_no_one_thing_is_refused(unmoved: House, order: dict[str, Any], field: str) -> None:
    before = unmoved.stand()
    answer = unmoved.caller("admin").post("/v1/erase", json={"dry_run": False, **order})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert unmoved.stand() == before
    assert unmoved.stores.audit.recent(5) == []


@pytest.mark.parametrize("name", ["alice", "reader", "reviewer"])
def test_only_admins_erase(unmoved: House, name: str) -> None:
    assert unmoved.caller(name).post("/v1/erase", json={"producer": "alice"}).status_code == 403
