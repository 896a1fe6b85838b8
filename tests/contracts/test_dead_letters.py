"""What every store of dead letters owes: they come back whole, once, and are sent anew once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from weir.errors import Conflict, InvalidInput, NotFound
from weir.stores.base import DeadLetter, DeadLetters

if TYPE_CHECKING:
    from tests.contracts.conftest import Opened, Reopen


def letter(first: int = 0, batch: str = "b_1") -> DeadLetter:
    return DeadLetter(batch, first, 5, "ada", 7, "ValueError: no", b"\x00payload %d" % first, 100.0 + first)


def bare(one: DeadLetter) -> DeadLetter:
    return dataclasses.replace(one, payload=b"")


def test_a_letter_comes_back_as_it_was_put(dead_letters: DeadLetters) -> None:
    dead_letters.put(letter(3))
    assert dead_letters.get("b_1:3") == letter(3)
    with pytest.raises(NotFound):
        dead_letters.get("b_1:4")


def test_a_second_put_changes_nothing(dead_letters: DeadLetters) -> None:
    dead_letters.put(letter(3))
    dead_letters.retried("b_1:3", "b_9")
    dead_letters.put(letter(3))
    assert dead_letters.get("b_1:3").retried_as == "b_9"
    assert dead_letters.waiting() == 0


def test_pages_follow_the_order_of_arrival_without_payloads(dead_letters: DeadLetters) -> None:
    sent = [letter(first) for first in (4, 0, 9)]
    for one in sent:
        dead_letters.put(one)
    first, cursor = dead_letters.page(None, 2)
    rest, end = dead_letters.page(cursor, 2)
    assert [*first, *rest] == [bare(one) for one in sent]
    assert end is None
    with pytest.raises(InvalidInput):
        dead_letters.page("x", 2)


def test_a_letter_is_sent_anew_once(dead_letters: DeadLetters) -> None:
    dead_letters.put(letter(0))
    dead_letters.put(letter(1))
    assert dead_letters.waiting() == 2
    assert dead_letters.retried("b_1:0", "b_9") == dataclasses.replace(letter(0), retried_as="b_9")
    assert dead_letters.waiting() == 1
    with pytest.raises(Conflict, match="b_9"):
        dead_letters.retried("b_1:0", "b_10")
    with pytest.raises(NotFound):
        dead_letters.retried("b_1:7", "b_10")


def test_what_is_dropped_is_gone(dead_letters: DeadLetters) -> None:
    dead_letters.put(letter(0))
    dead_letters.put(letter(1))
    assert dead_letters.drop(["b_1:0", "b_7:0"]) == 1
    assert [one.id for one in dead_letters.page(None, 10)[0]] == ["b_1:1"]
    assert dead_letters.waiting() == 1


def test_letters_outlive_the_process(stores: Opened, reopen: Reopen) -> None:
    stores.dead_letters.put(letter(0))
    stores.dead_letters.retried("b_1:0", "b_9")
    assert reopen().dead_letters.get("b_1:0") == dataclasses.replace(letter(0), retried_as="b_9")
