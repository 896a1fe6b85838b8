"""One update, its exact undo, and steps that are no numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from weir.core.config import LearnerConfig
from weir.core.learner import Learner, content_seed
from weir.core.network import Network
from weir.core.task import Classification
from weir.types import Recipe

if TYPE_CHECKING:
    from tests.core.conftest import World


class Bench:
    """A learner and its network."""

    def __init__(self, recipe: Recipe, **config: Any) -> None:
        self.network = Network(recipe, seed=1)
        self.learner = Learner(self.network, Classification(), LearnerConfig(**config))

    def bits(self) -> dict[str, bytes]:
        """Everything a step changes, as bytes."""
        state = self.learner.state()
        held = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
        return held | {"updates": str(state.values).encode(), "generator": torch.get_rng_state().numpy().tobytes()}


FULL = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "freeze_norm": False}


@pytest.fixture
def given(world: World) -> tuple[Tensor, Tensor]:
    return world.samples(16, seed=1)


def test_a_step_is_the_plain_sgd_update(world: World, given: tuple[Tensor, Tensor]) -> None:
    bench = Bench(world.recipe, lr=0.1, momentum=0.9, weight_decay=0.01)
    twin = Network(world.recipe, seed=1).module
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(twin(given[0]), given[1])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert bench.learner.step(*given, seed=0) == pytest.approx(float(loss.detach()))
    assert bench.learner.updates == 3
    assert all(torch.equal(tensor, twin.state_dict()[name]) for name, tensor in bench.network.snapshot().items())


def test_a_sample_weighs_no_more_when_others_of_its_step_are_held(world: World, given: tuple[Tensor, Tensor]) -> None:
    """Of 16 samples 12 are held: the 4 that are left move the model a quarter as far as a step of 4 would."""
    x, y = given[0][:4], given[1][:4]
    bench, twin = (Bench(world.recipe, lr=lr, momentum=0.0, weight_decay=0.01) for lr in (0.1, 0.025))
    loss = bench.learner.step(x, y, seed=0, size=16)
    assert loss == pytest.approx(twin.learner.step(x, y, seed=0), rel=1e-6)  # the mean of those learned all the same
    for name, tensor in bench.network.snapshot().items():
        torch.testing.assert_close(tensor, twin.network.snapshot()[name], rtol=1e-6, atol=1e-7)


def test_an_undone_step_leaves_no_trace(noisy_world: World, given: tuple[Tensor, Tensor]) -> None:
    bench = Bench(noisy_world.recipe, **FULL)
    bench.learner.step(*given, seed=1)
    kept = bench.bits()
    assert any("optimizer" in name for name in kept)
    assert any("running_var" in name for name in kept)
    before = bench.learner.capture()
    for seed in (2, 3):
        bench.learner.step(*given, seed=seed)
    changed = bench.bits()
    assert {name for name in kept if changed[name] == kept[name]} == {"generator"}
    bench.learner.restore(before)
    assert bench.bits() == kept


def test_the_first_step_is_undone_without_a_momentum_left_behind(
    noisy_world: World, given: tuple[Tensor, Tensor]
) -> None:
    one, other = Bench(noisy_world.recipe, **FULL), Bench(noisy_world.recipe, **FULL)
    before = one.learner.capture()
    one.learner.step(*given, seed=1)
    one.learner.restore(before)
    assert one.bits() == other.bits()
    for bench in (one, other):
        bench.learner.step(*given, seed=2)
    assert one.bits() == other.bits()


@pytest.mark.parametrize("steps", [0, 2])
def test_half_of_a_step_is_halfway_in_weights_and_in_momentum(
    noisy_world: World, given: tuple[Tensor, Tensor], steps: int
) -> None:
    """Without an earlier step the momentum before is nought; what counts steps has counted this one."""
    bench = Bench(noisy_world.recipe, **FULL)
    for seed in range(steps):
        bench.learner.step(*given, seed=seed)
    before = bench.learner.capture()
    bench.learner.step(*given, seed=9)
    whole = bench.learner.capture()
    bench.learner.halve(before)
    half = bench.learner.capture()
    for name, tensor in half.weights.items():
        counts = not tensor.is_floating_point()
        expected = whole.weights[name] if counts else (before.weights[name] + whole.weights[name]) / 2
        torch.testing.assert_close(tensor, expected)
    assert half.optimizer.keys() == whole.optimizer.keys()
    for place, held in half.optimizer.items():
        was = before.optimizer[place]["momentum_buffer"] if steps else torch.zeros(())
        torch.testing.assert_close(held["momentum_buffer"], (was + whole.optimizer[place]["momentum_buffer"]) / 2)
    assert half.updates == steps + 1
    bench.learner.restore(before)
    assert bench.learner.updates == steps


def test_half_of_a_step_leaves_a_constant_that_is_infinite_by_design(
    world: World, given: tuple[Tensor, Tensor]
) -> None:
    bench = Bench(Recipe(f"{type(world).__module__}:masked", world.recipe.inputs), lr=0.1)
    before = bench.learner.capture()
    bench.learner.step(*given, seed=0)
    bench.learner.halve(before)
    half = bench.network.snapshot()
    assert torch.equal(half["mask"], before.weights["mask"])
    assert all(bool(tensor.isfinite().all()) for name, tensor in half.items() if name != "mask")


def test_a_restored_copy_is_not_changed_by_later_steps(noisy_world: World, given: tuple[Tensor, Tensor]) -> None:
    bench = Bench(noisy_world.recipe, **FULL)
    bench.learner.step(*given, seed=1)
    before = bench.learner.capture()
    kept = bench.bits()
    for seed in (2, 3):
        bench.learner.step(*given, seed=seed)
        bench.learner.restore(before)
    assert bench.bits() == kept


def test_a_copy_in_the_memory_of_an_older_one_is_as_good(noisy_world: World, given: tuple[Tensor, Tensor]) -> None:
    bench = Bench(noisy_world.recipe, **FULL)
    older = bench.learner.capture()  # before there was any momentum
    for seed in (1, 2):
        bench.learner.step(*given, seed=seed)
        before, kept = bench.learner.capture(into=older), bench.bits()
        assert all(tensor.data_ptr() == older.weights[name].data_ptr() for name, tensor in before.weights.items())
        bench.learner.step(*given, seed=3)
        bench.learner.restore(before)
        assert bench.bits() == kept
        older = before


def test_a_step_repeats_exactly_and_another_seed_gives_another_one(
    noisy_world: World, given: tuple[Tensor, Tensor]
) -> None:
    def after(seed: int) -> dict[str, bytes]:
        bench = Bench(noisy_world.recipe, **FULL)
        bench.learner.step(*given, seed=seed)
        return bench.bits()

    first = after(1)
    torch.rand(5)  # whatever else draws from the running generator
    assert {k: v for k, v in after(1).items() if k != "generator"} == {
        k: v for k, v in first.items() if k != "generator"
    }
    assert after(2)["weights/1.weight"] != first["weights/1.weight"]


@pytest.mark.parametrize("spoil", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("warm", [False, True], ids=["first step", "later step"])
def test_a_step_that_is_not_finite_changes_nothing(
    noisy_world: World, given: tuple[Tensor, Tensor], spoil: float, warm: bool
) -> None:
    bench = Bench(noisy_world.recipe, **FULL)
    if warm:
        bench.learner.step(*given, seed=1)
    kept = bench.bits()
    x = given[0].clone()
    x[3, 2] = spoil
    assert bench.learner.step(x, given[1], seed=2) is None
    assert bench.bits() == kept
    assert bench.learner.step(*given, seed=3) is not None


def test_a_gradient_that_is_not_finite_changes_nothing_though_the_loss_is(
    world: World, given: tuple[Tensor, Tensor]
) -> None:
    bench = Bench(world.recipe, lr=0.1)
    kept = bench.bits()
    weight = next(iter(bench.network.module.parameters()))
    weight.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    assert bench.learner.step(*given, seed=1) is None
    assert bench.bits() == kept


def test_frozen_batch_norm_keeps_its_statistics(noisy_world: World, given: tuple[Tensor, Tensor]) -> None:
    def moved(freeze: bool) -> set[str]:
        bench = Bench(noisy_world.recipe, **(FULL | {"freeze_norm": freeze}))
        before = bench.network.snapshot()
        bench.learner.step(*given, seed=1)
        after = bench.network.snapshot()
        return {name for name in before if "running" in name and not torch.equal(before[name], after[name])}

    assert moved(freeze=True) == set()
    assert moved(freeze=False) == {"2.running_mean", "2.running_var"}


def test_a_single_sample_is_learned_and_leaves_the_statistics_alone(noisy_world: World) -> None:
    """A released sample comes alone; batch norm takes no statistics of one."""
    bench = Bench(noisy_world.recipe, **FULL)
    before = bench.network.snapshot()
    assert bench.learner.step(*noisy_world.samples(1, seed=1), seed=1) is not None
    after = bench.network.snapshot()
    assert torch.equal(before["2.running_mean"], after["2.running_mean"])
    assert not torch.equal(before["1.weight"], after["1.weight"])


def test_a_buffer_that_is_infinite_by_design_is_no_obstacle(world: World, given: tuple[Tensor, Tensor]) -> None:
    bench = Bench(Recipe(f"{type(world).__module__}:masked", world.recipe.inputs), lr=0.1)
    assert bench.learner.step(*given, seed=1) is not None


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_restart_goes_on_alike(noisy_world: World, given: tuple[Tensor, Tensor], momentum: float) -> None:
    config = FULL | {"momentum": momentum}
    one, other = Bench(noisy_world.recipe, **config), Bench(noisy_world.recipe, **config)
    for seed in range(3):
        one.learner.step(*given, seed=seed)
    other.learner.load_state(one.learner.state())
    assert other.bits() == one.bits()
    for bench in (one, other):
        bench.learner.step(*given, seed=9)
    assert other.bits() == one.bits()
    assert other.learner.updates == 4


def test_the_seed_depends_on_the_content_and_not_on_the_delivery(world: World) -> None:
    x, y = world.samples(5, seed=1)
    seed = content_seed(0, world.of(1, x, y, producer="ann"))
    assert seed == content_seed(0, world.of(7, x.clone(), y.clone(), producer="bob"))
    assert len({seed, content_seed(1, world.of(1, x, y)), content_seed(0, world.of(1, x, y.flip(0)))}) == 3
    assert 0 <= seed < 2**63


def test_logits_made_for_scoring_give_the_same_step(world: World, given: tuple[Tensor, Tensor]) -> None:
    """The gradient of some of the samples out of a pass of all of them: to rounding, that of a pass of their own."""
    bench, twin = Bench(world.recipe, lr=0.1), Bench(world.recipe, lr=0.1)
    assert bench.learner.shares
    kept = torch.arange(16) % 3 > 0
    x, y = given[0][kept], given[1][kept]
    scored = bench.network.outputs(given[0]).logits[kept]
    loss = bench.learner.step(x, y, seed=0, scored=scored)
    assert loss == pytest.approx(twin.learner.step(x, y, seed=0), rel=1e-6)
    for name, tensor in bench.network.snapshot().items():
        torch.testing.assert_close(tensor, twin.network.snapshot()[name], rtol=1e-6, atol=1e-7)


def test_a_held_sample_that_is_no_number_does_not_spoil_the_pass_it_was_scored_in(world: World) -> None:
    bench, twin = Bench(world.recipe, lr=0.1), Bench(world.recipe, lr=0.1)
    x, y = world.samples(16, seed=1)
    x[0] = math.inf
    scored = bench.network.outputs(x).logits[1:]
    assert bench.learner.step(x[1:], y[1:], seed=0, scored=scored) is not None
    twin.learner.step(x[1:], y[1:], seed=0)
    assert all(torch.equal(t, twin.network.snapshot()[name]) for name, t in bench.network.snapshot().items())
