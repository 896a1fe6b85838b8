"""The breaker: when it opens, whom it counts, and what an open one does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from weir.core import BreakerConfig, GuardConfig
from weir.core.breaker import ACTIVE, Breaker
from weir.core.judgement import Judgement
from weir.types import BreakerPolicy, GuardMode, Reason, SampleVerdict, State, Verdict

if TYPE_CHECKING:
    from tests.core.conftest import World

HELD = SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE)
ACCEPTED = SampleVerdict(Verdict.ACCEPT, Reason.CLEAN)


def judged(held: int, n: int, *, blamed: tuple[str, ...] = ()) -> Judgement:
    return Judgement((HELD,) * held + (ACCEPTED,) * (n - held), torch.zeros(n, 1), alarmed_producers=blamed)


def feed(
    breaker: Breaker, producer: str, held: int, n: int, *, steps: int, first: int = 0, **how: tuple[str, ...]
) -> None:
    for number in range(first, first + steps):
        breaker.observe(judged(held, n, **how), [producer] * n, number)


def test_it_opens_when_more_than_the_ratio_is_held_and_not_before_there_is_enough() -> None:
    breaker = Breaker(BreakerConfig(ratio=0.5))
    feed(breaker, "ann", 75, 100, steps=4)
    assert breaker.held_ratio(4) is None
    assert not breaker.open
    feed(breaker, "ann", 75, 100, steps=1, first=4)
    assert breaker.held_ratio(4) == pytest.approx(0.75)
    assert breaker.open


def test_less_than_half_leaves_it_closed_and_so_does_one_bad_step() -> None:
    breaker = Breaker(BreakerConfig(ratio=0.5))
    feed(breaker, "ann", 8, 20, steps=60)
    feed(breaker, "ann", 100, 100, steps=1, first=60)
    assert not breaker.open


def test_the_median_producer_counts_however_loud_a_minority_is() -> None:
    breaker = Breaker(BreakerConfig())
    for name in ("ann", "ben", "cid"):
        feed(breaker, name, 0, 20, steps=5)
    feed(breaker, "eve", 100, 100, steps=30, first=5, blamed=("eve",))
    feed(breaker, "zed", 100, 100, steps=30, first=35)
    assert breaker.held_ratio(65) == 0.0
    assert not breaker.open


def test_it_opens_when_all_are_held_as_a_whole() -> None:
    """Nobody is left to be honest: a bad vaccine, or a change of the world that nobody can outvote."""
    breaker = Breaker(BreakerConfig())
    names = [f"p{at}" for at in range(10)]
    for step in range(10):
        for name in names:
            breaker.observe(judged(10, 10, blamed=tuple(names)), [name] * 10, step)
    assert breaker.open


def test_the_silent_have_no_say() -> None:
    breaker = Breaker(BreakerConfig())
    for name in ("ann", "ben"):
        feed(breaker, name, 0, 100, steps=10)
    feed(breaker, "eve", 100, 100, steps=5, first=11 + ACTIVE)
    assert breaker.open


def test_a_restart_with_the_policy_off_closes_it() -> None:
    one, other = Breaker(BreakerConfig()), Breaker(BreakerConfig(policy=BreakerPolicy.OFF))
    feed(one, "ann", 100, 100, steps=10)
    other.load_state(one.state())
    assert one.open
    assert not other.open


def test_off_never_opens() -> None:
    breaker = Breaker(BreakerConfig(policy=BreakerPolicy.OFF))
    feed(breaker, "ann", 100, 100, steps=10)
    assert not breaker.open


def test_a_restart_goes_on_alike() -> None:
    one, other = Breaker(BreakerConfig()), Breaker(BreakerConfig())
    feed(one, "ann", 30, 70, steps=8)
    other.load_state(State({}, json.loads(json.dumps(one.state().values))))
    assert other.held_ratio(8) == one.held_ratio(8) != 0.0
    feed(one, "ann", 100, 100, steps=9, first=8)
    other.load_state(one.state())
    assert other.open


@pytest.mark.parametrize("policy", [BreakerPolicy.PAUSE, BreakerPolicy.OBSERVE])
def test_an_open_breaker_pauses_or_observes_says_so_and_is_closed_by_setting_the_mode(
    world: World, policy: BreakerPolicy
) -> None:
    """Three producers of nothing but wrong samples, too few to call it drift: nobody is left to learn from."""
    engine = world.engine(
        breaker=BreakerConfig(policy=policy), guard=GuardConfig(sample_rate=0.01, step_rate=1e-3, producer_rate=1e-9)
    )
    number = 0
    while not engine.breaker_open:
        number += 1
        assert number < 80
        x, y = world.samples(40, seed=number)
        step = world.of(number, x, (y + 1) % 3)
        engine.process(step.__class__(number, step.x, step.y, step.refs, [f"p{row % 3}" for row in range(40)]))
    (report,) = world.run(engine, number + 1, number + 1)
    assert report.breaker_open
    if policy is BreakerPolicy.PAUSE:
        assert {(v.verdict, v.reason) for v in report.verdicts} <= {
            (Verdict.QUARANTINE, reason) for reason in (Reason.BREAKER, Reason.SAMPLE)
        }
        assert not report.updated
    else:
        assert report.counts == {Verdict.ACCEPT: 20}
        assert report.updated
    engine.set_mode(GuardMode.WEIR)
    (report,) = world.run(engine, number + 2, number + 2)
    assert report.updated
    assert not report.breaker_open
