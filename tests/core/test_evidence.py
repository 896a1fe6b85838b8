"""Every column of the evidence matrix against a loop over samples."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from weir.core.evidence import Evidence
from weir.core.familiarity import Familiarity
from weir.core.network import Network
from weir.core.task import Classification
from weir.errors import InvalidSetting
from weir.types import Recipe

if TYPE_CHECKING:
    from tests.core.conftest import World

TASK = Classification()


class Scene:
    """Two models of one recipe, trusted samples, and others to gather evidence on."""

    def __init__(self, recipe: Recipe, x: Tensor, y: Tensor, *, images: bool = False) -> None:
        self.now, self.then = Network(recipe, seed=1), Network(recipe, seed=2)
        self.trusted_x, self.x = self.now.prepare(x[:15]), self.now.prepare(x[15:])
        self.trusted_y, self.y = y[:15], y[15:]
        self.evidence = Evidence(self.now, TASK, images=images)
        self.familiarity = Familiarity(self.trusted_x)
        with torch.no_grad():
            self.influence = self.evidence.influence(self.now.outputs(self.trusted_x), self.trusted_y)
            self.matrix = self.evidence.matrix(
                self.x,
                self.y,
                self.now.outputs(self.x),
                self.then.snapshot(),
                influence=self.influence,
                familiarity=self.familiarity,
            )

    def column(self, name: str) -> list[float]:
        column: list[float] = self.matrix[:, self.evidence.names.index(name)].tolist()
        return column

    def probabilities(self, network: Network, row: int) -> list[float]:
        with torch.no_grad():
            values: list[float] = network.module(self.x[row : row + 1])[0].double().softmax(0).tolist()
        return values

    def last_layer_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        head = [module for module in self.now.module.modules() if isinstance(module, nn.Linear)][-1]
        (gradient,) = torch.autograd.grad(TASK.loss(self.now.module(x), y).mean(), head.weight)
        return gradient


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world.recipe, *world.samples(30, seed=3))


def test_the_first_column_is_the_discrepancy_and_names_are_unique(scene: Scene) -> None:
    names = scene.evidence.names
    assert names[0] == "discrepancy"
    assert len(set(names)) == len(names) == scene.matrix.shape[1]
    assert scene.matrix.shape[0] == len(scene.y)


def test_divergences_equal_the_loop(scene: Scene) -> None:
    def divergence(p: list[float], q: list[float]) -> float:
        return sum(a * float(torch.tensor(a / b).log()) for a, b in zip(p, q, strict=True))

    for row in range(len(scene.y)):
        then, now = scene.probabilities(scene.then, row), scene.probabilities(scene.now, row)
        middle = [(a + b) / 2 for a, b in zip(then, now, strict=True)]
        assert scene.column("discrepancy")[row] == pytest.approx(divergence(then, now), abs=1e-5)
        assert scene.column("reverse")[row] == pytest.approx(divergence(now, then), abs=1e-5)
        half = (divergence(then, middle) + divergence(now, middle)) / 2
        assert scene.column("midpoint")[row] == pytest.approx(half, abs=1e-5)


def test_losses_and_their_change_equal_the_loop(scene: Scene) -> None:
    for row, label in enumerate(scene.y.tolist()):
        now = -float(torch.tensor(scene.probabilities(scene.now, row)[label]).log())
        then = -float(torch.tensor(scene.probabilities(scene.then, row)[label]).log())
        assert scene.column("loss")[row] == pytest.approx(now, abs=1e-5)
        assert scene.column("historical_loss")[row] == pytest.approx(then, abs=1e-5)
        assert scene.column("loss_change")[row] == pytest.approx(now - then, abs=1e-5)


def test_influence_is_the_trusted_gradient_of_the_last_layer(scene: Scene) -> None:
    assert scene.influence is not None
    torch.testing.assert_close(scene.influence, scene.last_layer_gradient(scene.trusted_x, scene.trusted_y))


def test_harm_is_minus_the_inner_product_with_the_trusted_gradient(scene: Scene) -> None:
    trusted = scene.last_layer_gradient(scene.trusted_x, scene.trusted_y)
    for row in range(len(scene.y)):
        own = scene.last_layer_gradient(scene.x[row : row + 1], scene.y[row : row + 1])
        assert scene.column("harm")[row] == pytest.approx(-float((own * trusted).sum()), abs=1e-5)


def test_feature_shift_is_relative_to_the_features_then(scene: Scene) -> None:
    for row in range(len(scene.y)):
        with torch.no_grad():
            now = scene.now.module[:-1](scene.x[row : row + 1])  # type: ignore[index]
            then = scene.then.module[:-1](scene.x[row : row + 1])  # type: ignore[index]
        assert scene.column("feature_shift")[row] == pytest.approx(float((now - then).norm() / then.norm()), rel=1e-4)


def test_mahalanobis_is_the_distance_to_trusted_inputs(scene: Scene) -> None:
    assert scene.column("mahalanobis") == pytest.approx(scene.familiarity.distance(scene.x).tolist())


def test_equal_models_are_exactly_zero_apart(world: World) -> None:
    network = world.network()
    x, y = world.samples(9, seed=1)
    evidence = Evidence(network, TASK, images=False)
    with torch.no_grad():
        known = {"influence": None, "familiarity": Familiarity(x)}
        matrix = evidence.matrix(x, y, network.outputs(x), network.snapshot(), **known)  # type: ignore[arg-type]
    moved = ("discrepancy", "reverse", "midpoint", "loss_change", "feature_shift")
    assert not matrix[:, [evidence.names.index(name) for name in moved]].any()


@pytest.mark.parametrize("model", ["headless", "wordy"])
def test_without_features_their_columns_are_zero_and_the_others_stand(world: World, model: str) -> None:
    recipe = Recipe(f"{type(world).__module__}:{model}", world.recipe.inputs)
    scene = Scene(recipe, *world.samples(30, seed=3))
    assert scene.influence is None
    assert not any(scene.column("harm") + scene.column("feature_shift"))
    assert all(scene.column("discrepancy"))


def test_roughness_is_the_distance_to_the_median_filtered_image(image_recipe: Recipe) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(18, 1, 8, 8, generator=generator)
    scene = Scene(image_recipe, x, torch.arange(18) % 3, images=True)
    mirror = [1, *range(8), 6]
    for row in range(3):
        image = scene.x[row, 0].tolist()
        total = 0.0
        for i in range(8):
            for j in range(8):
                patch = [image[mirror[i + a]][mirror[j + b]] for a in range(3) for b in range(3)]
                total += abs(image[i][j] - statistics.median(patch))
        assert scene.column("roughness")[row] == pytest.approx(total / 64, rel=1e-5)


def test_image_signals_of_what_is_no_image_are_refused(world: World) -> None:
    with pytest.raises(InvalidSetting, match=r"image_evidence.*\[6\]"):
        Evidence(world.network(), TASK, images=True)
