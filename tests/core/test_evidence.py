"""Every column of the evidence matrix against a loop over samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from weir.core.evidence import Evidence, Parents, View
from weir.core.familiarity import Familiarity
from weir.core.network import Network
from weir.core.task import Classification
from weir.types import EvidenceSet, InputSpec, Recipe

if TYPE_CHECKING:
    from tests.core.conftest import World

TASK = Classification()


class Scene:
    """Two models of one recipe, trusted samples, and others to gather evidence on."""

    def __init__(self, recipe: Recipe, x: Tensor, y: Tensor, chosen: EvidenceSet = EvidenceSet.ALL) -> None:
        self.now, self.then = Network(recipe, seed=1), Network(recipe, seed=2)
        self.trusted_x, self.x = self.now.prepare(x[:15]), self.now.prepare(x[15:])
        self.trusted_y, self.y = y[:15], y[15:]
        self.evidence = Evidence(self.now, TASK, chosen)
        self.familiarity = Familiarity(self.trusted_x)
        with torch.no_grad():
            self.influence = self.evidence.influence(self.now.outputs(self.trusted_x), self.trusted_y)
            now, then = self.now.outputs(self.x), self.now.outputs(self.x, self.then.snapshot())
            self.view = View(self.x, self.y, now, then, self.influence, self.familiarity)
            self.matrix = self.evidence.matrix(self.view)

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
    evidence = Evidence(network, TASK, EvidenceSet.ALL)
    with torch.no_grad():
        now, then = network.outputs(x), network.outputs(x, network.snapshot())
        matrix = evidence.matrix(View(x, y, now, then, None, Familiarity(x)))
    moved = ("discrepancy", "reverse", "midpoint", "loss_change", "feature_shift")
    assert not matrix[:, [evidence.names.index(name) for name in moved]].any()


@pytest.mark.parametrize("model", ["headless", "wordy"])
def test_without_features_their_columns_are_zero_and_the_others_stand(world: World, model: str) -> None:
    recipe = Recipe(f"{type(world).__module__}:{model}", world.recipe.inputs)
    scene = Scene(recipe, *world.samples(30, seed=3))
    assert scene.influence is None
    assert not any(scene.column("harm") + scene.column("feature_shift"))
    assert all(scene.column("discrepancy"))


def test_what_was_learned_from_parents_is_left_out_and_nothing_else_changes(scene: Scene) -> None:
    rows = torch.arange(15).flip(0)  # the classes go round, so that many a sample has a parent of another class
    with torch.no_grad():
        parents = Parents(rows, scene.trusted_x, scene.trusted_y, scene.now.outputs(scene.trusted_x))
    matrix = scene.evidence.matrix(replace(scene.view, parents=parents))
    distance, harm = (scene.evidence.names.index(name) for name in ("mahalanobis", "harm"))
    expected = scene.familiarity.leave_one_out(scene.x, scene.trusted_x[rows])
    torch.testing.assert_close(matrix[:, distance], expected)
    shares = torch.bincount(scene.trusted_y) / 15
    for row, parent in enumerate(rows.tolist()):
        of_classes = [(torch.arange(15) != parent) & (scene.trusted_y == label) for label in range(len(shares))]
        trusted = sum(
            share * scene.last_layer_gradient(scene.trusted_x[others], scene.trusted_y[others])
            for share, others in zip(shares, of_classes, strict=True)
        )
        own = scene.last_layer_gradient(scene.x[row : row + 1], scene.y[row : row + 1])
        assert float(matrix[row, harm]) == pytest.approx(-float((own * trusted).sum()), abs=1e-5)
    rest = [other for other in range(matrix.shape[1]) if other not in (distance, harm)]
    assert torch.equal(matrix[:, rest], scene.matrix[:, rest])
    assert not torch.equal(matrix[:, distance], scene.matrix[:, distance])
    assert not torch.equal(matrix[:, harm], scene.matrix[:, harm])


def images(recipe: Recipe) -> Scene:
    x = torch.rand(18, *recipe.inputs.shape, generator=torch.Generator().manual_seed(0))
    return Scene(recipe, x, torch.arange(18) % 3)


def second_differences(image: list[list[float]]) -> Tensor:
    """Of one channel, by hand."""
    lines = [*image, *map(list, zip(*image, strict=True))]
    return torch.tensor(
        [abs(line[i] - (line[i - 1] + line[i + 1]) / 2) for line in lines for i in range(1, len(line) - 1)]
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 8), (1, 3, 3)])
def test_grain_and_evenness_are_the_quartile_of_second_differences(shape: tuple[int, int, int]) -> None:
    scene = images(Recipe("mlp", InputSpec(shape, 3, 0.0, 1.0)))
    for row in range(3):
        found = torch.cat([second_differences(channel.tolist()) for channel in scene.x[row]])
        quartile = float(found.quantile(0.25))
        assert scene.column("grain")[row] == pytest.approx(quartile, rel=1e-5)
        assert scene.column("evenness")[row] == pytest.approx(quartile / (float(found.mean()) + 1e-4), rel=1e-4)


def test_noise_everywhere_stands_out_where_structure_does_not() -> None:
    """Checked per image: a smooth one with one sharp edge, and the same with a little noise on it."""
    scene = images(Recipe("mlp", InputSpec((1, 16, 16), 3, 0.0, 1.0)))
    structure = torch.zeros(3, 1, 16, 16)
    structure[..., 8:] = 0.8
    noise = 8 / 255 * torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    grain, evenness = (scene.evidence.names.index(name) for name in ("grain", "evenness"))
    outputs = replace(
        scene.view, y=scene.y[:3], current=scene.now.outputs(structure), historical=scene.then.outputs(structure)
    )
    smooth, noisy = (scene.evidence.matrix(replace(outputs, x=x)) for x in (structure, structure + noise))
    assert not smooth[:, [grain, evenness]].any()
    assert bool((noisy[:, grain] > 0.01).all())
    assert bool((noisy[:, evenness] > 0.2).all())


@pytest.mark.parametrize(
    ("shape", "are_images"),
    [((1, 3, 3), True), ((3, 8, 8), True), ((1, 2, 8), False), ((1, 8, 2), False), ((64,), False), ((8, 8), False)],
)
def test_image_signals_are_there_where_x_is_an_image(shape: tuple[int, ...], are_images: bool) -> None:
    scene = images(Recipe("mlp", InputSpec(shape, 3)))
    assert (scene.evidence.names[-2:] == ("grain", "evenness")) == are_images
    assert scene.matrix.shape == (3, 9 + 2 * are_images)
    assert bool(scene.matrix.isfinite().all())


OF_X = {"mahalanobis", "grain", "evenness"}
DIVERGENCES = {"discrepancy", "reverse", "midpoint"}


@pytest.mark.parametrize(
    ("chosen", "left_out"),
    [
        (EvidenceSet.ALL, set()),
        (EvidenceSet.NO_IMAGES, {"grain", "evenness"}),
        (EvidenceSet.MODEL, OF_X),
        (EvidenceSet.COMPANIONS, DIVERGENCES),
    ],
)
def test_an_evidence_set_judges_all_but_what_it_leaves_out(
    image_recipe: Recipe, chosen: EvidenceSet, left_out: set[str]
) -> None:
    evidence = Evidence(Network(image_recipe), TASK, chosen)
    assert [evidence.names[column] for column in evidence.judged] == [n for n in evidence.names if n not in left_out]
    assert left_out < set(evidence.names)


def test_the_papers_measure_alone_judges_its_own_column(image_recipe: Recipe) -> None:
    assert list(Evidence(Network(image_recipe), TASK, EvidenceSet.DISCREPANCY).judged) == [0]
