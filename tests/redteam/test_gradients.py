"""Directions that can be checked by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from weir.redteam.gradients import ascend, ascend_each, gradients, inner, units
from weir.redteam.threat import ThreatModel


def test_every_tensor_gets_a_norm_of_its_own() -> None:
    one, other = units([torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 50.0]])])
    torch.testing.assert_close(one, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(other, torch.tensor([[0.0, 1.0]]))


def test_the_inner_product_of_units_is_the_sum_of_the_cosines() -> None:
    first = units([torch.tensor([1.0, 0.0]), torch.tensor([2.0])])
    second = units([torch.tensor([1.0, 1.0]), torch.tensor([-3.0])])
    torch.testing.assert_close(inner(first, second), torch.tensor(0.5**0.5 - 1))


def test_a_tensor_without_gradient_stays_zero_and_breaks_no_derivative() -> None:
    x = torch.zeros(3, requires_grad=True)
    (unit,) = units([x * x])
    (slope,) = torch.autograd.grad(unit.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert torch.equal(unit, torch.zeros(3))
    assert slope.isfinite().all()
    assert curvature.isfinite().all()


def test_gradients_are_those_of_the_mean_cross_entropy() -> None:
    model = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    (gradient,) = gradients(model, torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 0]))
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, -0.5], [1.0, 0.5]]))


def test_ascent_reaches_the_border_of_the_ball_or_of_the_bounds_and_stays_there() -> None:
    x = torch.tensor([[0.1, 0.9, 0.5]])

    def objective(moved: Tensor) -> Tensor:
        return moved[0, 0] + moved[0, 1] - moved[0, 2]

    moved = ascend(objective, x, ThreatModel(epsilon=0.3), steps=4)
    torch.testing.assert_close(moved, torch.tensor([[0.4, 1.0, 0.2]]))


def test_several_budgets_share_the_slope_where_they_start_and_nothing_else() -> None:
    x, looks = torch.tensor([[0.2, 0.6]]), 0

    def objective(moved: Tensor) -> Tensor:
        nonlocal looks
        looks += 1
        return -(moved - 0.45).abs().sum()  # a small step leads on, a large one beyond the top and back

    threats, steps = [ThreatModel(epsilon=epsilon) for epsilon in (0.1, 0.4)], 3
    together = ascend_each(objective, x, threats, steps=steps)
    assert looks == 1 + len(threats) * (steps - 1)
    for threat, moved in zip(threats, together, strict=True):
        assert torch.equal(moved, ascend(objective, x, threat, steps=steps))
    torch.testing.assert_close(together[0], torch.tensor([[0.3, 0.5]]))
    assert not torch.equal(*together)
    assert [torch.equal(moved, x) for moved in ascend_each(objective, x, threats, steps=0)] == [True, True]


def test_train_mode_takes_the_statistics_of_the_batch_and_leaves_no_trace() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)).eval()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, y = torch.tensor([[1.0, 5.0], [3.0, 9.0], [8.0, 1.0]]), torch.tensor([0, 1, 1])
    first, moved = (gradients(model, 100 * k + x, y, train_mode=True) for k in (0, 1))
    for one, other in zip(first, moved, strict=True):
        torch.testing.assert_close(
            one, other, atol=1e-4, rtol=1e-3
        )  # a shift that all samples share is normalised away
    assert not torch.allclose(gradients(model, x, y)[0], gradients(model, 100 + x, y)[0])
    assert not model.training
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
