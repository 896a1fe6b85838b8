"""The budget holds, whatever an attack gives back or tries."""

from __future__ import annotations

import math

import pytest
import torch
from tests.test_imports import WEB_AND_DATABASE, loaded_by
from torch import Tensor, nn

from weir.core.layout import lay_out
from weir.errors import InvalidSetting
from weir.redteam.threat import ThreatModel

X = torch.tensor([[0.1, 0.5], [0.9, 0.2]])
Y = torch.tensor([0, 1])


class Returns:
    """An attack that gives back what it was made with."""

    def __init__(self, moved: Tensor) -> None:
        self.moved = moved

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.moved


class Onlooker:
    """An attack that only notes whether what it is handed has its channels first."""

    def __init__(self) -> None:
        self.first: list[bool] = []

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.first = [tensor.is_contiguous() for tensor in (x, *model.parameters())]
        return x


class Vandal:
    """An attack that overwrites everything it is handed."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        x.fill_(5.0)
        y.fill_(0)
        return x


def test_what_is_inside_the_budget_stays_as_the_attack_made_it() -> None:
    moved = torch.tensor([[0.2, 0.4], [0.9, 0.3]])
    assert torch.equal(ThreatModel(epsilon=0.1).clip(moved, X), moved)


def test_what_is_outside_is_brought_to_the_ball_and_to_the_bounds() -> None:
    moved = torch.tensor([[-9.0, 9.0], [math.inf, -math.inf]])
    clipped = ThreatModel(epsilon=0.3).clip(moved, X)
    torch.testing.assert_close(clipped, torch.tensor([[0.0, 0.8], [1.0, 0.0]]))


def test_not_a_number_is_no_move() -> None:
    assert torch.equal(ThreatModel(epsilon=0.3).clip(torch.full_like(X, math.nan), X), X)


def test_without_bounds_only_the_ball_limits() -> None:
    clipped = ThreatModel(epsilon=0.3, low=None, high=None).clip(X + 9, X)
    torch.testing.assert_close(clipped, X + 0.3)


@pytest.mark.parametrize("garbage", [torch.full((2, 2), 1e9), torch.full((2, 2), math.nan), torch.full((2, 2), -3.0)])
def test_garbage_from_an_attack_never_leaves_the_budget(garbage: Tensor) -> None:
    threat = ThreatModel(epsilon=0.25)
    crafted = threat.craft(Returns(garbage), nn.Linear(2, 2), X, Y)
    assert crafted.isfinite().all()
    assert float((crafted - X).abs().max()) <= 0.25 + 1e-6
    assert float(crafted.min()) >= 0
    assert float(crafted.max()) <= 1


def test_an_attack_cannot_change_the_model_the_samples_or_the_labels_in_place() -> None:
    model, x, y = nn.Linear(2, 2), X.clone(), Y.clone()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    crafted = ThreatModel(epsilon=0.1).craft(Vandal(), model, x, y)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    torch.testing.assert_close(crafted, (X + 0.1).clamp(0, 1))


def test_only_the_hostile_share_of_a_batch_is_moved() -> None:
    threat = ThreatModel(epsilon=0.1, fraction=0.5)
    assert threat.hostile(2) == 1
    crafted = threat.craft(Vandal(), nn.Linear(2, 2), X, Y)
    assert not torch.equal(crafted[0], X[0])
    assert torch.equal(crafted[1], X[1])


def test_a_share_of_nothing_moves_nothing() -> None:
    assert torch.equal(ThreatModel(epsilon=0.1, fraction=0.0).craft(Vandal(), nn.Linear(2, 2), X, Y), X)


def test_another_number_of_samples_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"attack.*\[2, 2\].*\[3, 2\]"):
        ThreatModel(epsilon=0.1).craft(Returns(torch.zeros(3, 2)), nn.Linear(2, 2), X, Y)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 0.1, "fraction": 1.5}, "fraction"),
        ({"epsilon": 0.1, "features": 0.0}, "features"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(values: dict[str, float], named: str) -> None:
    with pytest.raises(InvalidSetting, match=named):
        ThreatModel(**values)  # type: ignore[arg-type]


def test_the_attacks_load_where_there_is_no_web_or_database_package() -> None:
    loaded = loaded_by("import weir.redteam")
    assert "weir.redteam.accumulative" in loaded
    assert not loaded & WEB_AND_DATABASE


class Relabels:
    """An attack that gives back the labels it was made with."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def relabel(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x.fill_(5.0)
        y.fill_(0)
        return self.labels


def test_a_label_that_is_no_class_stays_as_it_was() -> None:
    threat = ThreatModel(epsilon=0.1, classes=2)
    assert threat.mislabel(Relabels(torch.tensor([2, 0])), nn.Linear(2, 2), X, Y).tolist() == [0, 0]
    assert threat.mislabel(Relabels(torch.tensor([-1, 5])), nn.Linear(2, 2), X, Y).tolist() == [0, 1]
    assert Y.tolist() == [0, 1]


@pytest.mark.parametrize("labels", [torch.zeros(3, dtype=torch.int64), torch.zeros(2)])
def test_what_are_no_labels_is_refused(labels: Tensor) -> None:
    with pytest.raises(InvalidSetting, match="int64"):
        ThreatModel(epsilon=0.1, classes=2).mislabel(Relabels(labels), nn.Linear(2, 2), X, Y)


def test_only_the_features_that_moved_furthest_differ() -> None:
    threat = ThreatModel(epsilon=0.4, features=0.5)
    torch.testing.assert_close(
        threat.clip(X + torch.tensor([[0.3, 0.1], [0.0, 0.2]]), X), torch.tensor([[0.4, 0.5], [0.9, 0.4]])
    )


def test_attacks_get_copies_with_channels_first() -> None:
    """Second derivatives of convolutions with their channels last once corrupted memory."""
    onlooker, model = Onlooker(), nn.Conv2d(3, 4, 3)
    lay_out(model, torch.channels_last)
    x = torch.rand(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    ThreatModel(epsilon=0.1).craft(onlooker, model, x, Y)
    assert onlooker.first == [True, True, True]
    assert not model.weight.is_contiguous()
