"""Who gets which digits, and what happens when."""

from __future__ import annotations

from collections import Counter

import pytest

from weir import datasets
from weir.demo import story
from weir.demo.story import Phase, Plan


@pytest.fixture(scope="module")
def given() -> story.Parts:
    return story.parts(Plan(), seed=5)


def test_no_digit_is_dealt_twice(given: story.Parts) -> None:
    dealt = [
        sample.numpy().tobytes()
        for x in (given.burn_in.x, given.probe.x, given.test.x, given.attacker.x, *(b.x for b in given.stream))
        for sample in x
    ]
    whole = Counter(sample.numpy().tobytes() for sample in datasets.digits().x)
    assert Counter(dealt) <= whole
    assert len(dealt) > 1780


def test_every_batch_is_full_and_the_attacker_has_what_it_needs(given: story.Parts) -> None:
    plan = Plan()
    assert {len(batch) for batch in given.stream} == {plan.batch}
    assert len(given.attacker) == plan.validation + plan.ammunition


def test_the_story_plays_every_honest_batch_and_attacks_once() -> None:
    plan = Plan(before=2, preparations=3)
    assert list(plan.phases(4)) == [
        *[Phase.BEFORE] * 2,
        *[Phase.ACCUMULATE] * 3,
        Phase.TRIGGER,
        *[Phase.AFTER] * 2,
    ]
    assert [phase for phase in Phase if phase.hostile] == [Phase.ACCUMULATE, Phase.TRIGGER]


def test_another_seed_deals_anew_and_the_same_seed_the_same(given: story.Parts) -> None:
    again, other = story.parts(Plan(), seed=5), story.parts(Plan(), seed=6)
    assert given.test.x.equal(again.test.x)
    assert not given.test.x.equal(other.test.x)
