"""Which predictions may do without a thread."""

from __future__ import annotations

import threading

from weir.api.pace import Pace


def test_nothing_is_quick_until_it_was_measured() -> None:
    pace = Pace()
    assert not pace.is_quick(1)
    pace.learn(8, 0.0005)
    assert pace.is_quick(8)
    assert not pace.is_quick(9)


def test_a_prediction_that_took_long_is_not_quick_any_more() -> None:
    pace = Pace()
    pace.learn(8, 0.0005)
    pace.learn(8, 0.1)
    assert pace.is_quick(4)
    assert not pace.is_quick(5)
    for samples in (4, 2, 1):
        pace.learn(samples, 0.1)
    assert not pace.is_quick(1)


def test_a_slow_prediction_of_many_says_nothing_of_few() -> None:
    pace = Pace()
    pace.learn(8, 0.0005)
    pace.learn(1000, 0.1)
    assert pace.is_quick(8)


def test_waiting_is_not_held_against_the_model() -> None:
    pace = Pace()
    with pace.measured(8):
        threading.Event().wait(0.02)
    assert pace.is_quick(8)
