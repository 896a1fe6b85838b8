"""What every store of dead letters owes: letters once, in order, each sent anew at most once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from weir.errors import Conflict, InvalidInput, NotFound
from weir.stores.base import DeadLetter, DeadLetters

if TYPE_CHECKING:
    from tests.contracts.conftest import Opened, Reopen


def letter(first: int = 0, batch: str = "b_1") -> DeadLetter:
    return DeadLetter(
        batch=batch,
        first=first,
        samples=3,
        producer="ada",
        step=7,
        error="ValueError: é",
        payload=b"\x00\xff%d" % first,
        at=0.1 + 0.2,
    )


def bare(kept: DeadLetter) -> DeadLetter:
    """A letter as a page lists it."""
    return dataclasses.replace(kept, payload=b"")


@pytest.fixture
def letters(stores: Opened) -> DeadLetters:
    return stores.dead_letters


def test_a_letter_comes_back_as_it_was_put(letters: DeadLetters) -> None:
    letters.put(letter())
    letters.put(sent := dataclasses.replace(letter(3), retried_as="b_9"))
    assert letters.get("b_1:0") == letter()
    assert letters.get("b_1:3") == sent
    with pytest.raises(NotFound):
        letters.get("b_1:1")


def test_a_second_put_changes_nothing(letters: DeadLetters) -> None:
    letters.put(letter())
    letters.retried("b_1:0", "b_2")
    letters.put(dataclasses.replace(letter(), error="another"))
    assert letters.get("b_1:0") == dataclasses.replace(letter(), retried_as="b_2")
    assert letters.page(None, 10)[0] == [dataclasses.replace(bare(letter()), retried_as="b_2")]


def test_pages_follow_the_order_of_arrival_without_payloads(letters: DeadLetters) -> None:
    kept = [letter(first) for first in (4, 2, 9, 0)]
    for one in kept:
        letters.put(one)
    first, cursor = letters.page(None, 2)
    second, end = letters.page(cursor, 2)
    assert [*first, *second] == [bare(one) for one in kept]
    assert end is None
    assert letters.page(cursor, 1)[1] is not None


def test_a_cursor_that_no_page_gave_is_refused(letters: DeadLetters) -> None:
    with pytest.raises(InvalidInput):
        letters.page("x", 2)


def test_a_letter_is_sent_anew_once(letters: DeadLetters) -> None:
    letters.put(letter())
    letters.put(letter(3))
    assert letters.waiting() == 2
    assert letters.retried("b_1:0", "b_2") == dataclasses.replace(letter(), retried_as="b_2")
    assert letters.waiting() == 1
    for batch in ("b_2", "b_3"):
        with pytest.raises(Conflict):
            letters.retried("b_1:0", batch)
    with pytest.raises(NotFound):
        letters.retried("b_1:1", "b_2")


def test_dropped_letters_are_gone(letters: DeadLetters) -> None:
    for first in range(3):
        letters.put(letter(first))
    letters.retried("b_1:1", "b_2")
    _, cursor = letters.page(None, 2)
    assert letters.drop(["b_1:1", "b_1:2", "b_1:9"]) == 2
    assert letters.drop([]) == 0
    assert letters.page(None, 10)[0] == [bare(letter(0))]
    assert letters.waiting() == 1
    letters.put(letter(5))
    assert letters.page(cursor, 10)[0] == [bare(letter(5))], "a cursor met a number that was used before"


def test_letters_outlive_the_process(stores: Opened, reopen: Reopen) -> None:
    stores.dead_letters.put(letter())
    stores.dead_letters.retried("b_1:0", "b_2")
    assert reopen().dead_letters.get("b_1:0").retried_as == "b_2"
