"""Progressive validation over a window of the newest samples."""

from __future__ import annotations

import json

import torch

from weir.core.evaluation import Progressive
from weir.types import State


def observe(progressive: Progressive, right: int, wrong: int) -> None:
    progressive.observe(torch.tensor([True] * right + [False] * wrong))


def test_there_is_no_accuracy_before_the_first_sample() -> None:
    assert Progressive(10).accuracy is None


def test_all_wrong_is_zero_and_not_unknown() -> None:
    progressive = Progressive(10)
    observe(progressive, 0, 3)
    assert progressive.accuracy == 0.0


def test_the_window_holds_whole_steps_that_cover_the_newest_samples() -> None:
    progressive = Progressive(10)
    observe(progressive, 4, 0)
    observe(progressive, 1, 4)
    assert progressive.accuracy == 5 / 9
    observe(progressive, 0, 4)  # 13 seen; without the first step only 9, less than the window
    assert progressive.accuracy == 5 / 13
    observe(progressive, 1, 0)  # now the other steps cover ten
    assert progressive.accuracy == 2 / 10


def test_a_step_larger_than_the_window_counts_alone() -> None:
    progressive = Progressive(2)
    observe(progressive, 5, 0)
    observe(progressive, 1, 3)
    assert progressive.accuracy == 1 / 4


def test_the_state_goes_through_json_and_goes_on_alike() -> None:
    one, other = Progressive(7), Progressive(7)
    for right in range(4):
        observe(one, right, 2)
    other.load_state(State({}, json.loads(json.dumps(one.state().values))))
    assert other.accuracy == one.accuracy
    for progressive in (one, other):
        observe(progressive, 3, 1)
    assert other.accuracy == one.accuracy
    assert other.state() == one.state()


def test_the_window_is_bounded() -> None:
    progressive = Progressive(50)
    for _ in range(5_000):
        observe(progressive, 1, 0)
    assert len(progressive.state().values["steps"]) == 50
