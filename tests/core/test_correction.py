"""Correction: where samples may go, when each stops, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from weir.core.config import CorrectionConfig
from weir.core.correction import Correction
from weir.core.network import Network
from weir.core.task import Classification
from weir.types import InputSpec, Recipe

if TYPE_CHECKING:
    from tests.core.conftest import World

STEPS, EPSILON = 8, 0.2


def always(moved: Tensor, index: Tensor) -> Tensor:
    return torch.ones(len(moved), dtype=torch.bool)


def correction(inputs: InputSpec, **config: float) -> tuple[Network, Correction]:
    network = Network(Recipe("mlp", inputs, {"hidden": 16}), seed=1)
    settings = CorrectionConfig(**{"epsilon": EPSILON, "steps": STEPS} | config)  # type: ignore[arg-type]
    return network, Correction(network, Classification(), settings)


@pytest.fixture
def given(world: World) -> tuple[Tensor, Tensor]:
    x, y = world.samples(30, seed=1)
    return x, (y + 1) % 3


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (None, None), (0.25, None), (None, 0.75)])
def test_samples_stay_in_the_ball_and_in_the_bounds(
    given: tuple[Tensor, Tensor], low: float | None, high: float | None
) -> None:
    x, y = given[0].clamp(low, high) if (low, high) != (None, None) else given[0], given[1]
    moved, suspect = correction(InputSpec((6,), 3, low, high))[1].correct(x, y, always)
    assert bool(suspect.all())
    assert float((moved - x).abs().max()) <= EPSILON + 1e-6
    assert float((moved - x).abs().max()) > EPSILON / 2
    if low is not None:
        assert float(moved.min()) >= low
    if high is not None:
        assert float(moved.max()) <= high


def test_the_loss_goes_down(given: tuple[Tensor, Tensor]) -> None:
    network, corrects = correction(InputSpec((6,), 3, 0.0, 1.0))
    x, y = given
    moved, _ = corrects.correct(x, y, always)
    before, after = (Classification().loss(network.outputs(v).logits, y) for v in (x, moved))
    assert bool((after < before).all())


def test_each_sample_stops_as_soon_as_it_is_no_longer_suspect(given: tuple[Tensor, Tensor]) -> None:
    x, y = given
    patience = torch.arange(len(y)) % 5 + 1  # steps after which a sample is cleared; more than STEPS: never
    patience[3] = STEPS + 1
    seen = torch.zeros(len(y), dtype=torch.int64)

    def suspicious(moved: Tensor, index: Tensor) -> Tensor:
        seen[index] += 1
        return seen[index] < patience[index]

    moved, suspect = correction(InputSpec((6,), 3))[1].correct(x, y, suspicious)
    assert torch.equal(seen, patience.clamp(max=STEPS))
    assert suspect.nonzero().flatten().tolist() == [3]
    size = EPSILON / STEPS
    furthest = (moved - x).abs().amax(1)
    torch.testing.assert_close(furthest, size * seen.float(), rtol=1e-3, atol=1e-6)


def test_a_sample_moves_alike_whatever_company_it_has(given: tuple[Tensor, Tensor]) -> None:
    x, y = given
    corrects = correction(InputSpec((6,), 3))[1]
    together = corrects.correct(x, y, always).x
    alone = torch.cat([corrects.correct(x[i : i + 1], y[i : i + 1], always).x for i in range(5)])
    torch.testing.assert_close(together[:5], alone)


@pytest.mark.parametrize("bounds", [(None, None), (0.0, 1.0)])
def test_categorical_features_never_move(bounds: tuple[float | None, float | None], world: World) -> None:
    x, y = world.samples(12, seed=2)
    x[:, 4] = 7.0  # a category's code may lie outside the bounds of the other features
    moved, _ = correction(InputSpec((6,), 3, *bounds, categorical=(1, 4)))[1].correct(x, y, always)
    assert torch.equal(moved[:, [1, 4]], x[:, [1, 4]])
    assert bool((moved[:, [0, 2, 3, 5]] != x[:, [0, 2, 3, 5]]).any(0).all())


def test_categorical_indices_count_through_the_flat_sample() -> None:
    inputs = InputSpec((2, 3), 3, categorical=(4,))
    x = torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(0))
    moved, _ = correction(inputs)[1].correct(x, torch.arange(9) % 3, always)
    still = (moved == x).all(0)
    assert still.nonzero().tolist() == [[1, 1]]


def test_no_weight_gets_a_gradient_and_nothing_else_changes(given: tuple[Tensor, Tensor]) -> None:
    network, corrects = correction(InputSpec((6,), 3))
    x, y = given
    kept, weights = x.clone(), network.snapshot()
    with torch.no_grad():
        moved, _ = corrects.correct(x, y, always)
    assert all(parameter.grad is None for parameter in network.module.parameters())
    assert not moved.requires_grad
    assert torch.equal(x, kept)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.snapshot().items())


@pytest.mark.parametrize("steps", [1, 3])
def test_no_more_steps_than_configured(given: tuple[Tensor, Tensor], steps: int) -> None:
    rounds: list[int] = []

    def counted(moved: Tensor, index: Tensor) -> Tensor:
        rounds.append(len(moved))
        return always(moved, index)

    correction(InputSpec((6,), 3), steps=steps)[1].correct(*given, counted)
    assert rounds == [30] * steps


def test_the_ball_is_in_the_units_of_the_model_and_each_feature_has_bounds_of_its_own(world: World) -> None:
    inputs = InputSpec((6,), 3, low=(0.0,) * 6, high=(1.0,) * 5 + (0.8,), center=(0.5,) * 6, scale=(2.0,) * 6)
    network, corrects = correction(inputs)
    x, y = world.samples(30, seed=4)
    x = network.prepare(x.clamp(0, 0.8))
    moved, _ = corrects.correct(x, (y + 1) % 3, always)
    assert float((moved - x).abs().max()) <= EPSILON + 1e-6
    sent = moved * 2 + 0.5
    assert float(sent.min()) >= -1e-6
    assert float(sent[:, 5].max()) == pytest.approx(0.8)
    assert 0.8 < float(sent[:, :5].max()) <= 1.0 + 1e-6
