"""The update is that of torch's optimizer, bit for bit, and what it keeps is as much."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from weir.core.sgd import Sgd


def parameters() -> list[Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in ((17, 9), (9,), (3, 2, 5))]


def gradients(parameters: list[Parameter], seed: int, *, without: int | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    for place, parameter in enumerate(parameters):
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if place == without else drawn


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
def test_steps_equal_those_of_torch_bit_for_bit(momentum: float, weight_decay: float) -> None:
    mine, theirs = parameters(), parameters()
    sgd = Sgd(mine, lr=0.03, momentum=momentum, weight_decay=weight_decay)
    torch_sgd = torch.optim.SGD(theirs, lr=0.03, momentum=momentum, weight_decay=weight_decay)
    for seed, without in enumerate((1, None, 0, None)):  # one of them has no gradient now and then
        for those in (mine, theirs):
            gradients(those, seed, without=without)
        sgd.step()
        torch_sgd.step()
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    kept = torch_sgd.state_dict()["state"]
    assert sgd.momenta.keys() == kept.keys()
    assert all(torch.equal(sgd.momenta[place], kept[place]["momentum_buffer"]) for place in kept)
    assert bool(sgd.momenta) is (momentum > 0)


def test_what_has_no_gradient_stays() -> None:
    given = parameters()
    before = [parameter.detach().clone() for parameter in given]
    sgd = Sgd(given, lr=1.0, momentum=0.9, weight_decay=0.1)
    gradients(given, 1, without=None)
    sgd.zero_grad()
    sgd.step()
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    assert not sgd.momenta
