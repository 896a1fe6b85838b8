"""What every key store owes: keys by id, and a revocation that stands."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from weir.errors import Conflict, NotFound
from weir.stores.base import KeyRecord, Keys, Role

if TYPE_CHECKING:
    from tests.contracts.conftest import Opened, Reopen

ADA = KeyRecord("k_1", "ada", frozenset({Role.PRODUCER, Role.READER}), "aa" * 32, 10.0)
EVE = KeyRecord("k_2", "eve", frozenset(), "bb" * 32, 5.0, revoked_at=6.0)


def test_a_key_comes_back_as_it_was_added(keys: Keys) -> None:
    keys.add(ADA)
    keys.add(EVE)
    assert keys.get("k_1") == ADA
    assert keys.get("k_2") == EVE
    assert keys.get("k_3") is None


def test_all_keys_come_oldest_first(keys: Keys) -> None:
    assert keys.all() == []
    keys.add(ADA)
    keys.add(EVE)
    assert keys.all() == [EVE, ADA]


def test_an_id_is_taken_once(keys: Keys) -> None:
    keys.add(ADA)
    with pytest.raises(Conflict):
        keys.add(dataclasses.replace(EVE, id="k_1"))
    assert keys.all() == [ADA]


def test_a_revoked_key_stays_revoked(keys: Keys) -> None:
    keys.add(ADA)
    keys.revoke("k_1", 20.0)
    keys.revoke("k_1", 30.0)
    assert keys.get("k_1") == dataclasses.replace(ADA, revoked_at=20.0)
    with pytest.raises(NotFound):
        keys.revoke("k_2", 20.0)


def test_keys_outlive_the_process(stores: Opened, reopen: Reopen) -> None:
    stores.keys.add(ADA)
    stores.keys.revoke("k_1", 20.0)
    assert reopen().keys.all() == [dataclasses.replace(ADA, revoked_at=20.0)]
