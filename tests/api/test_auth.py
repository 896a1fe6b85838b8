"""Keys and roles: who gets in, and the trusted mode without keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from tests.api.conftest import NOW, House, Open, batch

from weir.api import auth
from weir.api.app import RESOURCES
from weir.api.auth import Allow, Keyring, issue, rotate
from weir.codec import SAFETENSORS, encode
from weir.errors import InvalidSetting, NotFound, Unauthenticated
from weir.stores.base import Role
from weir.stores.sqlite import Sqlite

BINARY = {"Content-Type": SAFETENSORS}
OPEN = {"/health/live", "/health/ready"}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Sqlite]:
    with Sqlite(tmp_path / "weir.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def unkeyed(open_house: Open, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house"), keyed=False) as house:
        yield house


def test_a_key_opens_and_its_secret_is_not_stored(file: Sqlite) -> None:
    record, key = issue("alice", [Role.PRODUCER], lambda: NOW)
    prefix, key_id, secret = key.split("_", 2)
    assert (prefix, key_id, record.created_at) == ("weir", record.id, NOW)
    assert len(secret) >= 43  # 256 bits in base64
    assert secret not in repr(record)
    assert record.digest == hashlib.sha256(secret.encode()).hexdigest()
    file.keys.add(record)
    assert Keyring(file.keys, keyed=True).holder(key) == auth.Identity("alice", frozenset({Role.PRODUCER}))


def test_two_keys_of_one_name_differ() -> None:
    assert issue("alice", [Role.PRODUCER], lambda: NOW)[1] != issue("alice", [Role.PRODUCER], lambda: NOW)[1]


@pytest.mark.parametrize("name", ["", "-a", "a b", "a" * 65, "a\nb", "ä"])
def test_a_name_that_could_confuse_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting, match="name"):
        issue(name, [Role.READER], lambda: NOW)


def test_a_key_without_roles_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="roles"):
        issue("alice", [], lambda: NOW)


def test_rotation_lets_the_new_key_in_and_the_old_one_out(file: Sqlite) -> None:
    record, old = issue("alice", [Role.PRODUCER, Role.READER], lambda: NOW)
    file.keys.add(record)
    fresh, new = rotate(file.keys, record.id, lambda: NOW + 1)
    keyring = Keyring(file.keys, keyed=True)
    assert keyring.holder(new) == auth.Identity("alice", record.roles)
    assert fresh.id != record.id
    with pytest.raises(Unauthenticated):
        keyring.holder(old)
    with pytest.raises(NotFound):
        rotate(file.keys, record.id, lambda: NOW + 2)


def test_every_wrong_key_hears_the_same(unmoved: House) -> None:
    alice, bob = unmoved.keys["alice"], unmoved.keys["bob"]
    key_id = alice.split("_")[1]
    wrong = [
        "",
        "weir",
        "weir__",
        alice[:-1],
        alice + "A",
        alice.upper(),
        f"x{alice}",
        f"weir_{key_id}_",
        f"weir_{key_id}_{bob.split('_', 2)[2]}",
        f"weir_0123456789ab_{alice.split('_', 2)[2]}",
    ]
    answers = [unmoved.caller(Authorization=f"Bearer {key}").get("/v1/batches/b_0") for key in wrong[1:]]
    odd = {b"Authorization": f"Bearer {alice[:20]}é".encode("latin-1")}
    answers.append(unmoved.caller().get("/v1/batches/b_0", headers=odd))
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert answers[0].headers["WWW-Authenticate"].startswith("Bearer")
    assert unmoved.caller("alice").get("/v1/batches/b_0").status_code == 404


@pytest.mark.parametrize("header", [None, "Basic YTpi", "Bearer"])
def test_no_key_is_401_and_says_how_to_send_one(unmoved: House, header: str | None) -> None:
    caller = unmoved.caller(**{"Authorization": header} if header else {})
    before = unmoved.stand()
    answer = caller.post("/v1/batches", content=encode(batch()), headers=BINARY)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert "Bearer" in answer.json()["detail"]
    assert unmoved.stand() == before


def test_a_revoked_key_is_shut_out_at_once(service_app: House) -> None:
    alice = service_app.caller("alice")
    assert alice.get("/v1/batches/b_0").status_code == 404
    service_app.stores.keys.revoke(service_app.keys["alice"].split("_")[1], NOW)
    assert alice.get("/v1/batches/b_0").status_code == 401


def test_the_key_comes_before_the_body(unmoved: House) -> None:
    """Who may not send is told so, whatever it sends."""
    answer = unmoved.caller("reader").post("/v1/batches", content=b"x", headers={"Content-Type": "text/html"})
    assert answer.status_code == 403


def test_a_producer_may_not_see_another_producers_batch(service_app: House) -> None:
    sent = service_app.send(batch(), by="alice")
    before = service_app.stand()
    answer = service_app.caller("bob").get(f"/v1/batches/{sent['id']}")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "alice" not in answer.text
    assert service_app.stand() == before


def test_without_keys_every_role_is_granted_and_the_producer_is_named_by_a_header(unkeyed: House) -> None:
    body = {"content": encode(batch()), "headers": BINARY}
    local = unkeyed.caller().post("/v1/batches?wait=20", **body).json()  # type: ignore[arg-type]
    named = unkeyed.caller(**{"X-Weir-Producer": "sensor-7"}).post("/v1/batches?wait=20", **body).json()  # type: ignore[arg-type]
    assert (local["producer"], named["producer"]) == ("local", "sensor-7")
    assert len(named["verdicts"]) == len(batch())
    assert unkeyed.caller().post("/v1/checkpoints").status_code == 201


def test_without_keys_a_producer_name_that_could_confuse_is_refused(unkeyed: House) -> None:
    before = unkeyed.stand()
    answer = unkeyed.caller(**{"X-Weir-Producer": "a b"}).post("/v1/batches", content=encode(batch()), headers=BINARY)
    assert (answer.status_code, answer.json()["field"]) == (422, "X-Weir-Producer")
    assert unkeyed.stand() == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "weir.example"},
        {"Host": "localhost.example:80"},
        {"Host": "127.0.0.1.example"},
        {"Origin": "https://weir.example"},
        {"Origin": "null"},
    ],
)
def test_without_keys_no_web_page_gets_in(unkeyed: House, headers: dict[str, str]) -> None:
    """A browser on this machine would carry a foreign page's request here."""
    answer = unkeyed.caller(**headers).post("/v1/checkpoints")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "localhost:8790", "127.0.0.1", "[::1]:8790"])
def test_without_keys_this_machine_gets_in_by_any_of_its_names(unkeyed: House, host: str) -> None:
    assert unkeyed.caller(Host=host, Origin=f"http://{host}").get("/v1/mode").status_code == 200


def test_from_the_first_key_on_every_request_needs_one(
    open_house: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_OPEN_SECONDS", 0.0)
    with open_house(tmp_path, keyed=False) as house:
        assert house.caller().get("/v1/mode").status_code == 200
        record, key = issue("root", [Role.ADMIN], lambda: NOW)
        house.stores.keys.add(record)
        assert house.caller().get("/v1/mode").status_code == 401
        assert house.caller(Authorization=f"Bearer {key}").get("/v1/mode").status_code == 200
        house.stores.keys.revoke(record.id, NOW)
        assert house.caller().get("/v1/mode").status_code == 401


def test_a_house_without_keys_asks_for_the_first_one_every_second(file: Sqlite) -> None:
    now = 0.0
    keyring = Keyring(file.keys, keyed=False, clock=lambda: now)
    assert [keyring.was_open, keyring.keyed] == [False, False]  # at first nobody has looked
    file.keys.add(issue("root", [Role.ADMIN], lambda: NOW)[0])
    now = 0.9
    assert [keyring.was_open] == [True]
    now = 1.0
    assert [keyring.was_open, keyring.keyed, keyring.was_open] == [False, True, False]


def method(route: APIRoute) -> str:
    """The one method of a route."""
    assert route.methods is not None
    return min(route.methods)


ROUTES = [route for resource in RESOURCES for route in resource.router.routes if isinstance(route, APIRoute)]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{method(route)} {route.path}")
def test_every_route_is_guarded_and_its_documentation_names_the_roles(route: APIRoute, unmoved: House) -> None:
    guards = [part.call for part in route.dependant.dependencies if isinstance(part.call, Allow)]
    assert len(guards) == (route.path not in OPEN)
    schema = unmoved.caller().get("/openapi.json").json()["paths"][route.path]
    description = schema[method(route).lower()]["description"]
    assert all(f"Needs the role {guard}." in description for guard in guards)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{method(route)} {route.path}")
def test_every_guarded_route_refuses_a_caller_without_a_key(route: APIRoute, unmoved: House) -> None:
    if route.path not in OPEN:
        path = route.path.replace("{id}", "b_0:0")
        assert unmoved.caller().request(method(route), path).status_code == 401
