"""Admission: a producer with too much held is asked to have it reviewed, and nobody else is."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import anyio
import httpx
import pytest
from tests.api.conftest import House, Open, Scripted, held_sample

from weir.api.admission import Admission
from weir.api.service import Limits
from weir.errors import QuotaExceeded
from weir.stores.base import HeldState, Quarantine, QuarantineSize


class Counted:
    """A quarantine that says how much it holds and how often it was asked."""

    def __init__(self, **held: int) -> None:
        self.held = held
        self.asked: list[str | None] = []

    def held_by(self, producer: str) -> int:
        """How many of this producer's samples are HELD."""
        self.asked.append(producer)
        return self.held.get(producer, 0)

    def size(self) -> QuarantineSize:
        """How much is HELD."""
        self.asked.append(None)
        return QuarantineSize(sum(self.held.values()), None)


class Clock:
    """Seconds that a test lets go by."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(quarantine: Counted, clock: Clock | None = None, *, most: int = 10, most_of_one: int = 6) -> Admission:
    return Admission(cast(Quarantine, quarantine), most=most, most_of_one=most_of_one, clock=clock or Clock())


def refusal(door: Admission, producer: str) -> QuotaExceeded | None:
    try:
        anyio.run(door.check, producer)
    except QuotaExceeded as error:
        return error
    return None


def refused(door: Admission, producer: str) -> bool:
    return refusal(door, producer) is not None


def test_a_refusal_names_what_is_held_the_cap_and_the_cure() -> None:
    error = refusal(admission(Counted(a=6)), "a")
    assert error is not None
    assert (error.code, error.retry_after) == ("quarantine_full", 60)
    assert str(error).startswith("6 samples of 'a' are held for review, of at most 6: have them reviewed")


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({"a": 5, "b": 4}, set()),
        ({"a": 6, "b": 3}, {"a"}),
        ({"a": 5, "b": 5}, {"a", "b"}),
        ({"a": 9, "b": 1}, {"a", "b"}),
    ],
)
def test_the_caps_meet_only_who_has_samples_held(held: dict[str, int], expected: set[str]) -> None:
    door = admission(Counted(**held))
    assert {name for name in ("a", "b", "new") if refused(door, name)} == expected


def test_counts_are_a_second_old_at_most() -> None:
    quarantine, clock = Counted(a=6), Clock()
    door = admission(quarantine, clock)
    assert [refused(door, "a") for _ in range(3)] == [True] * 3
    quarantine.held = {"a": 0}
    clock.now = 0.99
    assert refused(door, "a")
    clock.now = 1.0
    assert not refused(door, "a")
    assert quarantine.asked == ["a", "a"]


def test_the_total_is_counted_once_for_all_producers() -> None:
    quarantine = Counted(a=1, b=1)
    door = admission(quarantine)
    for name in ("a", "b", "a", "new"):
        assert not refused(door, name)
    assert quarantine.asked == ["a", None, "b", "new"]


def test_of_too_many_producers_the_oldest_is_forgotten() -> None:
    quarantine = Counted()
    door = admission(quarantine)

    async def knock() -> None:
        for number in (*range(1_001), 1_000, 0):
            await door.check(f"p{number}")

    anyio.run(knock)
    assert len(quarantine.asked) == 1_002
    assert quarantine.asked[-1] == "p0"


def send(house: House, name: str) -> httpx.Response:
    return house.caller(name).post("/v1/batches", json={"x": [[0, 0, 0, 0]], "y": [0]})


def test_a_full_quarantine_refuses_its_producers_until_they_are_reviewed(open_house: Open, tmp_path: Path) -> None:
    limits = Limits(quarantine_producer_max=2, quarantine_max_samples=3)
    with open_house(tmp_path, started=False, limits=limits) as house:
        house.behave(learner=Scripted(house.trainer))
        house.hold(held_sample("a", 0), held_sample("a", 1))
        answer = send(house, "alice")
        assert (answer.status_code, answer.json()["code"]) == (429, "quarantine_full")
        assert answer.headers["Retry-After"] == "60"
        assert house.stores.log.tail() == 0
        assert send(house, "bob").status_code == 202
        house.stores.quarantine.move("a:0", HeldState.DISCARDED, expect=[HeldState.HELD])
        house.behave()  # which counts anew
        assert send(house, "alice").status_code == 202
