"""Channels last where the model takes that, and nothing but the time is another for it."""

from __future__ import annotations

import pytest
import torch
from tests.core.conftest import INPUTS, World
from torch import Tensor, nn

from weir.core import LearnerConfig, SnapshotConfig, build
from weir.core.layout import lay_out, like, takes_channels_last
from weir.core.models import some_samples
from weir.types import InputSpec, Recipe

IMAGES = InputSpec((3, 10, 7), 5)


class Convolving(nn.Module):
    """Two convolutions and a head, which gets their output flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        )
        self.head = nn.Linear(24, INPUTS.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x (n, 6)."""
        logits: Tensor = self.head(self.flattened(self.body(x)))
        return logits

    def flattened(self, seen: Tensor) -> Tensor:
        """What the convolutions give (n, 4, 2, 3) as (n, 24), however that lies in memory."""
        return seen.flatten(1)


class Viewing(Convolving):
    """A model that wants its channels first."""

    def flattened(self, seen: Tensor) -> Tensor:
        return seen.view(len(seen), -1)


class ViewingAsItLearns(Convolving):
    """One that wants that in train mode alone."""

    def flattened(self, seen: Tensor) -> Tensor:
        return seen.view(len(seen), -1) if self.training else seen.flatten(1)


class Prying(Convolving):
    """One that takes any order in memory, and computes something else for each."""

    def flattened(self, seen: Tensor) -> Tensor:
        return seen.as_strided((len(seen), 24), (24, 1))


class PryingUnseen(Prying):
    """One whose head shows nothing of that at first."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)


class Masked(Prying):
    """One that masks a class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).index_fill(1, torch.tensor([0]), -torch.inf)


class Unfilled(Convolving):
    """One whose weights are no numbers before a checkpoint is loaded."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.head.weight, torch.nan)


class Tapped(Convolving):
    """One that keeps a second hold of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tap", self.get_parameter("body.3.weight").data)


class Chosen(Convolving):
    """One that came with channels last, and keeps a second hold of a weight."""

    def __init__(self) -> None:
        super().__init__()
        lay_out(self, torch.channels_last)
        self.register_buffer("tap", self.get_parameter("body.3.weight").data)


class Insisting(Convolving):
    """One that asks for what it wants, in words of its own."""

    def flattened(self, seen: Tensor) -> Tensor:
        assert seen.is_contiguous(), "channels first, please"
        return seen.flatten(1)


class Positioned(Convolving):
    """One that adds a buffer of four dimensions, which no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.rand(1, 4, 2, 3), persistent=False)

    def flattened(self, seen: Tensor) -> Tensor:
        return seen.flatten(1) + self.get_buffer("place").view(1, -1)


class Twice(Convolving):
    """One that has a layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.last = self.get_submodule("body.3")


class Volumes(Convolving):
    """One with convolutions over volumes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*self.body, nn.Unflatten(1, (4, 1)), nn.Conv3d(4, 4, 1), nn.Flatten(1, 2))


TAKE = (Convolving, Twice, Volumes)
TAKE_NOT = (
    Viewing,
    ViewingAsItLearns,
    Prying,
    PryingUnseen,
    Masked,
    Unfilled,
    Tapped,
    Insisting,
    Positioned,
)


def made(inputs: InputSpec, *, kind: str) -> nn.Module:
    """A model of one of these classes."""
    model: nn.Module = globals()[kind]()
    return model


def laid(kind: type[Convolving]) -> World:
    return World(Recipe(f"{__name__}:made", INPUTS, {"kind": kind.__name__}))


def orders(tensors: dict[str, Tensor]) -> set[tuple[bool, bool]]:
    """Of the convolutions' weights over several channels: whether they are contiguous, and with channels last."""
    return {
        (t.is_contiguous(), t.is_contiguous(memory_format=torch.channels_last))
        for t in tensors.values()
        if t.ndim == 4 and t.shape[1] > 1 and t.shape[2] > 1
    }


FIRST, LAST = {(True, False)}, {(False, True)}


@pytest.mark.parametrize(("model", "takes"), [("mlp", False), ("cnn", True), ("resnet18", True)])
def test_our_models_of_images_take_it(model: str, takes: bool) -> None:
    built = build(Recipe(model, IMAGES)).eval()
    assert takes_channels_last(built, some_samples(IMAGES)) == takes
    assert orders(built.state_dict()) == (LAST if takes else set())


@pytest.mark.parametrize("kind", [*TAKE, *TAKE_NOT])
def test_what_a_model_takes_is_tried(kind: type[Convolving]) -> None:
    takes = kind in TAKE
    assert takes_channels_last(kind(), some_samples(INPUTS)) == takes
    assert orders(build(laid(kind).recipe).state_dict()) == (LAST if takes else FIRST)


def test_who_chose_channels_last_keeps_them_whatever_the_trial_says() -> None:
    assert not takes_channels_last(Chosen(), some_samples(INPUTS))
    assert orders(build(laid(Chosen).recipe).state_dict()) == LAST


def test_the_trial_leaves_no_trace() -> None:
    norm = nn.BatchNorm1d(INPUTS.classes)
    nn.init.zeros_(norm.weight)
    model = nn.Sequential(Convolving(), norm, nn.Dropout())
    before, drawn = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    takes_channels_last(model, some_samples(INPUTS))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert orders(model.state_dict()) == FIRST
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("model", ["cnn", "resnet18"])
def test_outputs_and_gradients_are_those_with_channels_first(model: str) -> None:
    """Relative error below 1e-4, in fresh models on fresh inputs."""
    for seed in range(3):
        built = build(Recipe(model, IMAGES, {"width": 8}), seed=seed).eval()
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.rand(16, *IMAGES.shape, generator=generator), torch.randint(0, 5, (16,), generator=generator)
        found = []
        for memory, order in ((torch.channels_last, LAST), (torch.contiguous_format, FIRST)):
            outputs = lay_out(built, memory)(x)
            assert orders(built.state_dict()) == order
            gradients = torch.autograd.grad(nn.functional.cross_entropy(outputs, y), list(built.parameters()))
            found.append([outputs.detach(), *gradients])
        for last, first in zip(*found, strict=True):
            assert float((last - first).abs().max()) <= 1e-4 * float(first.abs().max())


@pytest.mark.parametrize("kind", [Convolving, Viewing, ViewingAsItLearns, Insisting, Positioned, Tapped])
def test_an_engine_learns_and_guards_whatever_its_model_takes(kind: type[Convolving]) -> None:
    world = laid(kind)
    reports = world.run(world.engine(), 1, 4)
    assert all(report.updated and report.armed for report in reports)


def test_a_restart_goes_on_to_the_last_bit_with_channels_last() -> None:
    """The state comes with channels first, as a file gives it."""
    world = laid(Convolving)
    one, other = (
        world.engine(snapshots=SnapshotConfig(lag=2), learner=LearnerConfig(lr=0.02, momentum=0.9)) for _ in range(2)
    )
    world.run(one, 1, 6)
    state = one.state()
    kept = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
    other.load_state(type(state)(kept, state.values))
    past = other._snapshots.reference()
    assert past is not None
    assert orders(dict(other.weights())) == orders(dict(past.weights)) == LAST
    assert orders({str(n): momentum for n, momentum in other._learner._optimizer.momenta.items()}) == LAST
    assert world.run(other, 7, 12) == world.run(one, 7, 12)
    mine, theirs = one.weights(), other.weights()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_copy_like_another_tensor_is_no_part_of_either() -> None:
    held, other = torch.rand(2, 3, 4, 5), torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    made = like(held, other)
    assert torch.equal(made, held)
    assert made.is_contiguous(memory_format=torch.channels_last)
    made.zero_()
    assert bool(held.any())
