"""From x as it is sent to x as the model sees it."""

from __future__ import annotations

import pytest
import torch

from weir.core.network import Network
from weir.core.preparation import Preparation
from weir.types import InputSpec, Recipe

CPU = torch.device("cpu")


def test_each_feature_is_standardised_with_its_own_numbers() -> None:
    prepare = Preparation(InputSpec((2, 2), 2, center=(1.0, 2.0, 3.0, 4.0), scale=(1.0, 2.0, 4.0, 8.0)), CPU)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 7.0, 12.0]])
    assert prepare(x).tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]


def test_bytes_are_scaled_before_they_are_standardised() -> None:
    prepare = Preparation(InputSpec((1,), 2, center=(0.5,), scale=(0.5,)), CPU)
    assert prepare(torch.tensor([[255], [0]], dtype=torch.uint8)).tolist() == [[1.0], [-1.0]]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_samples_give_the_same_bits_however_they_lie_in_memory(channels: int) -> None:
    """A decoded image lies channels last, the same one out of a journal does not; convolutions tell these apart."""
    network = Network(Recipe("cnn", InputSpec((channels, 8, 8), 3), {"width": 16}))
    x = torch.rand(25, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    for other in (x.to(memory_format=torch.channels_last), x.transpose(0, 1).contiguous().transpose(0, 1)):
        assert network.prepare(other).stride() == x.stride()
        assert torch.equal(network.outputs(network.prepare(other)).logits, network.outputs(network.prepare(x)).logits)


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
