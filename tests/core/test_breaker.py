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
    feed(breaker, "ann", 15, 20, steps=9)
    assert breaker.held_ratio(9) is None
    assert not breaker.open
    feed(breaker, "ann", 15, 20, steps=1, first=9)
    assert breaker.held_ratio(9) == pytest.approx(0.75, abs=0.01)
    assert breaker.open


def test_half_and_less_leave_it_closed() -> None:
    breaker = Breaker(BreakerConfig(ratio=0.5))
    feed(breaker, "ann", 9, 20, steps=60)
    assert not breaker.open


def test_a_producer_that_is_suspect_as_a_whole_does_not_count() -> None:
    breaker = Breaker(BreakerConfig())
    feed(breaker, "eve", 100, 100, steps=30, blamed=("eve",))
    feed(breaker, "ann", 0, 20, steps=20, first=30)
    assert breaker.held_ratio(50) == 0.0
    assert not breaker.open


def test_a_flood_of_one_weighs_no_more_than_others() -> None:
    breaker = Breaker(BreakerConfig())
    for name in ("ann", "ben", "cid"):
        feed(breaker, name, 0, 20, steps=10)
    feed(breaker, "eve", 100, 100, steps=30, first=10)
    assert breaker.held_ratio(40) == pytest.approx(0.25, abs=0.01)
    assert not breaker.open


def test_the_silent_have_no_say() -> None:
    breaker = Breaker(BreakerConfig())
    feed(breaker, "ann", 0, 100, steps=10)
    feed(breaker, "ben", 100, 100, steps=3, first=10 + ACTIVE)
    assert breaker.open


def test_off_never_opens() -> None:
    breaker = Breaker(BreakerConfig(policy=BreakerPolicy.OFF))
    feed(breaker, "ann", 100, 100, steps=10)
    assert not breaker.open


def test_a_restart_goes_on_alike() -> None:
    one, other = Breaker(BreakerConfig()), Breaker(BreakerConfig())
    feed(one, "ann", 30, 70, steps=3)
    other.load_state(State({}, json.loads(json.dumps(one.state().values))))
    assert other.held_ratio(2) == one.held_ratio(2)
    feed(one, "ann", 100, 100, steps=3, first=3)
    other.load_state(one.state())
    assert other.open


@pytest.mark.parametrize("policy", [BreakerPolicy.PAUSE, BreakerPolicy.OBSERVE])
def test_an_open_breaker_pauses_or_observes_says_so_and_is_closed_by_setting_the_mode(
    world: World, policy: BreakerPolicy
) -> None:
    """Forty producers of a few wrong samples each: no producer's fault, and a step alarm after another."""
    engine = world.engine(
        breaker=BreakerConfig(policy=policy), guard=GuardConfig(sample_rate=0.01, step_rate=1e-3, producer_rate=1e-9)
    )
    number = 0
    while not engine.breaker_open:
        number += 1
        assert number < 30
        x, y = world.samples(40, seed=number)
        step = world.of(number, x, (y + 1) % 3)
        engine.process(step.__class__(number, step.x, step.y, step.refs, [f"p{row}" for row in range(40)]))
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
