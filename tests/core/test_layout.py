"""Channels last where the model takes that, and nothing but the time is another for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.core.conftest import INPUTS, World
from torch import Tensor, nn

from weir.core import LearnerConfig, SnapshotConfig, build
from weir.core.layout import CHANNELS_LAST, CONTIGUOUS, laid_out, lay_out, like, takes_channels_last
from weir.core.models import some_samples
from weir.types import InputSpec, Recipe

IMAGES = InputSpec((3, 10, 7), 5)


class Convolving(nn.Module):
    """Two convolutions and a head, which gets their output by ``flatten``."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        )
        self.head = nn.Linear(24, INPUTS.classes)
        self._flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x (n, 6)."""
        logits: Tensor = self.head(self._flatten(self.body(x)))
        return logits


def plain(inputs: InputSpec) -> nn.Module:
    """A model that does not ask how its activations lie in memory."""
    return Convolving(lambda seen: seen.flatten(1))


def viewing(inputs: InputSpec) -> nn.Module:
    """One that wants its channels first."""
    return Convolving(lambda seen: seen.view(len(seen), -1))


def prying(inputs: InputSpec) -> nn.Module:
    """One that takes any order in memory, and computes something else for each."""
    return Convolving(lambda seen: seen.as_strided((len(seen), 24), (24, 1)))


def laid(factory: Callable[[InputSpec], nn.Module]) -> World:
    return World(Recipe(f"{__name__}:{factory.__name__}", INPUTS))


def orders(tensors: dict[str, Tensor]) -> set[tuple[bool, bool]]:
    """Of the convolutions' weights over several channels: whether they are contiguous, and with channels last."""
    return {
        (t.is_contiguous(), t.is_contiguous(memory_format=CHANNELS_LAST))
        for t in tensors.values()
        if t.ndim == 4 and t.shape[1] > 1 and t.shape[2] > 1
    }


FIRST, LAST = {(True, False)}, {(False, True)}


@pytest.mark.parametrize(("model", "takes"), [("mlp", False), ("cnn", True), ("resnet18", True)])
def test_our_models_of_images_take_it(model: str, takes: bool) -> None:
    built = build(Recipe(model, IMAGES)).eval()
    assert takes_channels_last(built, some_samples(IMAGES)) == takes
    assert orders(built.state_dict()) == (LAST if takes else set())


@pytest.mark.parametrize(("factory", "takes"), [(plain, True), (viewing, False), (prying, False)])
def test_what_a_model_takes_is_tried(factory: Callable[[InputSpec], nn.Module], takes: bool) -> None:
    world = laid(factory)
    network = world.network()
    assert network.takes_channels_last == takes
    assert orders(network.module.state_dict()) == (LAST if takes else FIRST)


@pytest.mark.parametrize("model", ["cnn", "resnet18"])
def test_outputs_and_gradients_are_those_with_channels_first(model: str) -> None:
    """Relative error below 1e-4, in fresh models on fresh inputs."""
    for seed in range(3):
        built = build(Recipe(model, IMAGES, {"width": 8}), seed=seed).eval()
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.rand(16, *IMAGES.shape, generator=generator), torch.randint(0, 5, (16,), generator=generator)
        found = []
        for memory in (CHANNELS_LAST, CONTIGUOUS):
            outputs = lay_out(built, memory)(x)
            gradients = torch.autograd.grad(nn.functional.cross_entropy(outputs, y), list(built.parameters()))
            found.append([outputs.detach(), *gradients])
        for last, first in zip(*found, strict=True):
            assert float((last - first).abs().max()) <= 1e-4 * float(first.abs().max())


@pytest.mark.parametrize("factory", [plain, viewing])
def test_an_engine_learns_and_guards_whatever_its_model_takes(factory: Callable[[InputSpec], nn.Module]) -> None:
    world = laid(factory)
    reports = world.run(world.engine(), 1, 4)
    assert all(report.updated and report.armed for report in reports)


def test_a_restart_goes_on_to_the_last_bit_with_channels_last() -> None:
    """The state comes with channels first, as a file gives it."""
    world = laid(plain)
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


def test_tensors_of_other_dimensions_stay_as_they_are() -> None:
    tensors = {"bias": torch.rand(4), "volume": torch.rand(2, 3, 4, 5, 6), "images": torch.rand(2, 3, 4, 5)}
    made = laid_out(tensors, CHANNELS_LAST)
    assert made["bias"] is tensors["bias"]
    assert made["volume"] is tensors["volume"]
    assert torch.equal(made["images"], tensors["images"])
    assert made["images"].is_contiguous(memory_format=CHANNELS_LAST)


def test_a_copy_like_another_tensor_is_no_part_of_either() -> None:
    held, other = torch.rand(2, 3, 4, 5), torch.zeros(2, 3, 4, 5).contiguous(memory_format=CHANNELS_LAST)
    made = like(held, other)
    assert torch.equal(made, held)
    assert made.is_contiguous(memory_format=CHANNELS_LAST)
    made.zero_()
    assert bool(held.any())
