"""``weir keys``: who may do what. Works on the data folder itself, whether the service runs or not."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.cli.output import AsJson, card, document, remark, show

if TYPE_CHECKING:
    from weir.stores.base import KeyRecord, Role, Stores

app = typer.Typer(no_args_is_help=True)

DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Data folder of the service (else WEIR_DATA, else weir-data).")
]
KeyId = Annotated[str, typer.Argument(help="The key's id, as `weir keys list` shows it.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is; a producer is known by this name.")],
    role: Annotated[
        list[str] | None, typer.Option(help="producer, reviewer, reader or admin; repeat for more than one.")
    ] = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it this once: only a hash of it is kept.

    From the first key on every request needs one, and the service may listen beyond this machine.

    \b
    Examples:
      weir keys add sensor-7
      weir keys add ana --role reviewer --role reader
      weir keys add ops --role admin --json | jq -r .key > ops.key
    """
    from weir.api import auth

    roles = _roles(role or ["producer"])
    with _stores(data) as stores:
        record, key = auth.issue(name, roles, time.time)
        stores.keys.add(record)
        _note(stores, "key.add", record)
    _reveal(record, key, as_json)


@app.command("list")
def list_keys(data: DataFolder = None, as_json: AsJson = False) -> None:
    """List the keys, oldest first: never their secrets."""
    with _stores(data) as stores:
        items = [_public(record) for record in stores.keys.all()]
    show(
        items,
        ("id", "name", "roles", "created_at", "revoked_at"),
        as_json=as_json,
        nothing="No keys: the service listens on this machine only. Make one with `weir keys add NAME --role admin`.",
    )


@app.command()
def rotate(id: KeyId, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Replace a key by a new one of the same name and roles; the old one stops working at once."""
    from weir.api import auth

    with _stores(data) as stores:
        record, key = auth.rotate(stores.keys, id, time.time)
        _note(stores, "key.rotate", record, replaces=id)
    _reveal(record, key, as_json)


@app.command()
def revoke(id: KeyId, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Revoke a key for good."""
    from weir.errors import NotFound

    with _stores(data) as stores:
        stores.keys.revoke(id, time.time())
        record = stores.keys.get(id)
        if record is None:
            raise NotFound("key", id)
        _note(stores, "key.revoke", record)
    card(_public(record), as_json=as_json)


def _roles(names: list[str]) -> frozenset[Role]:
    from weir.errors import InvalidSetting
    from weir.stores.base import Role

    unknown = [name for name in names if name not in set(Role)]
    if unknown:
        raise InvalidSetting("--role", unknown[0], f"one of {', '.join(Role)}")
    return frozenset(Role(name) for name in names)


@contextmanager
def _stores(data: Path | None) -> Iterator[Stores]:
    from weir import config, folder

    with folder.stores(config.load(**({"data": data} if data else {}))) as stores:
        yield stores


def _note(stores: Stores, action: str, record: KeyRecord, **detail: str) -> None:
    from weir.stores.base import AuditRecord

    detail = {"name": record.name, "roles": ", ".join(sorted(record.roles)), **detail}
    stores.audit.record(AuditRecord(time.time(), f"shell:{getpass.getuser()}", action, record.id, detail))


def _public(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "roles": sorted(record.roles),
        "created_at": record.created_at,
        "revoked_at": record.revoked_at,
    }


def _reveal(record: KeyRecord, key: str, as_json: bool) -> None:
    if as_json:
        return document({**_public(record), "key": key})
    print(key)
    remark(f"Key {record.id} of {record.name} ({', '.join(sorted(record.roles))}). Keep it now: it is not shown again.")
    return None
