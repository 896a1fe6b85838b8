"""From x as it is sent to x as the model sees it."""

from __future__ import annotations

import torch

from weir.core.preparation import Preparation
from weir.types import InputSpec

CPU = torch.device("cpu")


def test_each_feature_is_standardised_with_its_own_numbers() -> None:
    prepare = Preparation(InputSpec((2, 2), 2, center=(1.0, 2.0, 3.0, 4.0), scale=(1.0, 2.0, 4.0, 8.0)), CPU)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 7.0, 12.0]])
    assert prepare(x).tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]


def test_bytes_are_scaled_before_they_are_standardised() -> None:
    prepare = Preparation(InputSpec((1,), 2, center=(0.5,), scale=(0.5,)), CPU)
    assert prepare(torch.tensor([[255], [0]], dtype=torch.uint8)).tolist() == [[1.0], [-1.0]]


def test_bounds_are_given_in_the_units_of_the_model() -> None:
    common = Preparation(InputSpec((2,), 2, low=0.0, high=10.0, center=(5.0, 0.0), scale=(5.0, 2.0)), CPU)
    assert common.low is not None
    assert common.high is not None
    assert (common.low.tolist(), common.high.tolist()) == ([-1.0, 0.0], [1.0, 5.0])
    own = Preparation(InputSpec((2,), 2, low=(0.0, -4.0), high=None, scale=(1.0, 2.0)), CPU)
    assert own.low is not None
    assert (own.low.tolist(), own.high) == ([0.0, -2.0], None)


def test_what_is_given_stays_as_it_was() -> None:
    x = torch.ones(2, 1)
    Preparation(InputSpec((1,), 2, center=(1.0,), scale=(2.0,)), CPU)(x)
    assert torch.equal(x, torch.ones(2, 1))
