"""What the guard vaccinates itself with: attacks within their bounds, and a module that is left as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from weir.core.layout import lay_out
from weir.core.vaccine import Strain
from weir.redteam import Accumulative, Cocktail, ThreatModel, Trigger
from weir.redteam.cocktail import ATTACKS, FLIPS, LARGEST_MARK, MARKED, MARKS
from weir.types import Batch

CLASSES = 4
CRAFTED = {"accumulative", "trigger"}
SHAPES = [(12,), (1, 8, 8), (3, 6, 9)]
EPSILONS = (0.05, 0.3)
COCKTAIL = Cocktail(epsilons=EPSILONS)


class Noisy(nn.Module):
    """Batch norm and dropout: everything that a forward pass in train mode would leave a trace in."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        features = int(torch.tensor(shape).prod())
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features, 10),
            nn.BatchNorm1d(10),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Linear(10, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def model(shape: tuple[int, ...]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Noisy(shape).eval()


def samples(shape: tuple[int, ...], n: int = 60) -> tuple[Tensor, Tensor]:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)), torch.arange(n) % CLASSES


def strains(
    shape: tuple[int, ...],
    cocktail: Cocktail = COCKTAIL,
    *,
    low: Tensor | None = None,
    high: Tensor | None = None,
    seed: int = 0,
) -> Sequence[Strain]:
    return cocktail(model(shape), *samples(shape), low=low, high=high, seed=seed)


def distances(strain: Strain, x: Tensor) -> Tensor:
    """How far each sample was moved, L∞."""
    return (strain.x - x[strain.parents]).abs().flatten(1).amax(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_attack_is_in_it_and_every_strain_is_well_formed(shape: tuple[int, ...]) -> None:
    found = strains(shape)
    x, _ = samples(shape)
    assert {strain.name for strain in found} == set(ATTACKS)
    for strain in found:
        n = len(strain.y)
        assert n > 0
        assert strain.x.shape == (n, *shape)
        assert (strain.x.dtype, strain.y.dtype, strain.parents.dtype) == (x.dtype, torch.int64, torch.int64)
        assert strain.parents.shape == (n,)
        assert 0 <= int(strain.parents.min()) <= int(strain.parents.max()) < len(x)
        assert 0 <= int(strain.y.min()) <= int(strain.y.max()) < CLASSES
        assert bool(strain.x.isfinite().all())
        assert not strain.x.requires_grad
    counted = Counter(strain.name for strain in found)
    assert (counted["label_flip"], counted["backdoor"]) == (FLIPS, MARKS)
    assert counted["trigger"] == counted["accumulative"] == 2 * len(EPSILONS)  # each half, at each budget


@pytest.mark.parametrize("shape", SHAPES)
def test_crafted_samples_use_their_budget_and_stay_within_it(shape: tuple[int, ...]) -> None:
    x, y = samples(shape)
    furthest: dict[str, set[float]] = {name: set() for name in CRAFTED}
    for strain in strains(shape):
        if strain.name in CRAFTED:
            moved = distances(strain, x)
            assert bool((moved > 0).all())
            furthest[strain.name].add(min(EPSILONS, key=lambda e: abs(e - float(moved.max()))))
            assert min(abs(float(moved.max()) - epsilon) for epsilon in EPSILONS) < 1e-6
            assert torch.equal(strain.y, y[strain.parents])  # clean labels: it is the samples that are poison
    assert furthest == {name: set(EPSILONS) for name in CRAFTED}


def convolved(shape: tuple[int, ...]) -> nn.Module:
    """Convolutions as the learner lays them out: channels last."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(shape[0], 5, 3), nn.BatchNorm2d(5), nn.Softplus(), nn.Flatten(), nn.LazyLinear(CLASSES)
        )
        layers(torch.zeros(2, *shape))
    return lay_out(layers, torch.channels_last).eval()


@pytest.mark.parametrize(("make", "shape"), [(model, (12,)), (model, (1, 8, 8)), (convolved, (3, 6, 9))])
def test_the_strains_are_what_the_attacks_craft_to_the_last_bit(
    make: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...]
) -> None:
    x, y = samples(shape)
    bounds = {"low": torch.full(shape, 0.1), "high": x.amax(0)}
    crafted = [strain for strain in COCKTAIL(make(shape), x, y, **bounds, seed=0) if strain.name in CRAFTED]
    halves = [strain.parents for strain in crafted[:3:2]]
    assert sorted(torch.cat(halves).tolist()) == list(range(len(x)))
    pairs = [(epsilon, half) for epsilon in EPSILONS for half in (0, 1)]
    for (epsilon, half), trigger, accumulative in zip(pairs, crafted[::2], crafted[1::2], strict=True):
        own, others = halves[half], halves[1 - half]
        threat = ThreatModel(epsilon=epsilon, low=bounds["low"], high=bounds["high"])
        attack = Trigger(threat, Batch(x[others], y[others]), COCKTAIL.steps)
        assert torch.equal(trigger.x, threat.craft(attack, make(shape), x[own], y[own]))
        strike, quiet = own.tensor_split([len(own) // 4])
        prepare = Accumulative(attack, Batch(x[strike], y[strike]), COCKTAIL.steps)
        assert torch.equal(accumulative.parents, quiet)
        assert torch.equal(accumulative.x, threat.craft(prepare, make(shape), x[quiet], y[quiet]))


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_leaves_the_bounds_and_each_feature_may_have_its_own(shape: tuple[int, ...]) -> None:
    x, _ = samples(shape)
    low = x.amin(0) - 0.02 * torch.rand(shape, generator=torch.Generator().manual_seed(2))
    high = x.amax(0) + 0.02 * torch.rand(shape, generator=torch.Generator().manual_seed(3))
    binding = set()
    for strain in strains(shape, low=low, high=high):
        assert bool((strain.x >= low - 1e-6).all())
        assert bool((strain.x <= high + 1e-6).all())
        if bool(((strain.x == low) | (strain.x == high)).any()):
            binding.add(strain.name)
    assert binding == {*CRAFTED, "backdoor"}
    beyond = [strain for strain in strains(shape) if strain.name in CRAFTED]
    assert any(bool((strain.x > high).any()) and bool((strain.x < low).any()) for strain in beyond)


@pytest.mark.parametrize("shape", SHAPES)
def test_flipped_labels_are_wrong_on_samples_that_are_right(shape: tuple[int, ...]) -> None:
    x, y = samples(shape)
    flips = [strain for strain in strains(shape) if strain.name == "label_flip"]
    for strain in flips:
        assert torch.equal(strain.x, x[strain.parents])
        assert bool((strain.y != y[strain.parents]).all())
        assert len(set(((strain.y - y[strain.parents]) % CLASSES).tolist())) == CLASSES - 1  # any other class
    assert not torch.equal(flips[0].y, flips[1].y)


@pytest.mark.parametrize("shape", SHAPES)
def test_marks_claim_the_label_of_another_class(shape: tuple[int, ...]) -> None:
    x, y = samples(shape)
    low, high = torch.full(shape, -0.5), torch.full(shape, 1.5)
    marks = [strain for strain in strains(shape, low=low, high=high) if strain.name == "backdoor"]
    places = set()
    for strain in marks:
        assert len(set(strain.y.tolist())) == 1  # one target
        assert bool((y[strain.parents] != strain.y).all())
        assert len(set(strain.parents.tolist())) == len(strain.parents) == round(MARKED * len(y))
        changed = strain.x != x[strain.parents]
        where = changed.any(0)
        assert torch.equal(changed, where.expand_as(changed))  # the same mark on every sample
        assert bool(((strain.x == low) | (strain.x == high))[changed].all())
        pattern = strain.x[:, where]
        assert torch.equal(pattern, pattern[:1].expand_as(pattern))
        places.add((tuple(where.flatten().tolist()), tuple(pattern[0].tolist())))
        if len(shape) == 3:
            rows, columns = (where.any(0).any(axis).nonzero().flatten().tolist() for axis in (1, 0))
            assert len(rows) == len(columns) <= max(3, min(shape[1:]) // LARGEST_MARK)
            assert int(where.sum()) == shape[0] * len(rows) ** 2  # a square in every channel
        else:
            assert int(where.sum()) == shape[0] // LARGEST_MARK
    assert len(places) == len(marks)  # each has a place and a pattern of its own


def test_without_bounds_a_mark_is_as_extreme_as_trusted_samples_are() -> None:
    x, _ = samples((12,))
    for strain in strains((12,)):
        if strain.name == "backdoor":
            changed = strain.x != x[strain.parents]
            extreme = (strain.x == x.amin(0)) | (strain.x == x.amax(0))
            assert bool(extreme[changed].all())


@pytest.mark.parametrize("shape", SHAPES)
def test_half_is_poisoned_to_spoil_the_other_and_no_sample_is_both(shape: tuple[int, ...]) -> None:
    """The trigger takes each half whole; a quarter of it is the trigger that the rest prepares for."""
    found = strains(shape, Cocktail(epsilons=(0.1,)))
    halves = [set(strain.parents.tolist()) for strain in found if strain.name == "trigger"]
    assert halves[0] | halves[1] == set(range(60))
    assert not halves[0] & halves[1]
    for half, strain in zip(halves, [s for s in found if s.name == "accumulative"], strict=True):
        assert set(strain.parents.tolist()) < half
        assert len(strain.parents) == 30 - 30 // 4


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_seeds_give_equal_strains_and_other_seeds_other_ones(shape: tuple[int, ...]) -> None:
    one = strains(shape, seed=3)
    torch.rand(7)
    again, other = strains(shape, seed=3), strains(shape, seed=4)
    for a, b in zip(one, again, strict=True):
        assert a.name == b.name
        assert all(torch.equal(s, t) for s, t in zip(a[1:], b[1:], strict=True))
    for name in ATTACKS:
        pairs = [(a, b) for a, b in zip(one, other, strict=True) if a.name == name]
        assert any(
            a.x.shape != b.x.shape or not torch.equal(a.x, b.x) or not torch.equal(a.y, b.y) for a, b in pairs
        ), name


@pytest.mark.parametrize(
    "without", [{"accumulative"}, {"trigger"}, CRAFTED, {"label_flip"}, {"backdoor"}, {"backdoor", "trigger"}]
)
def test_what_is_left_out_is_left_out_and_the_rest_stays_as_it_is(without: set[str]) -> None:
    everything = strains((12,))
    found = strains((12,), Cocktail(epsilons=EPSILONS, without=frozenset(without)))
    assert {strain.name for strain in found} == set(ATTACKS) - without
    kept = [strain for strain in everything if strain.name not in without]
    assert len(found) == len(kept)
    for a, b in zip(found, kept, strict=True):
        # Without any crafting there are no halves to draw, and the marks are others.
        if a.name != "backdoor" or not without >= CRAFTED:
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.y, b.y)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_module_is_left_as_it_was(shape: tuple[int, ...]) -> None:
    network = model(shape)
    network.get_submodule("layers.5").requires_grad_(False)
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    wanted = [p.requires_grad for p in network.parameters()]
    generator = torch.get_rng_state()
    x, y = samples(shape)
    given = x.clone(), y.clone()
    cocktail = COCKTAIL(network, x, y, low=None, high=None, seed=0)
    assert {strain.name for strain in cocktail} == set(ATTACKS)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())
    assert [p.requires_grad for p in network.parameters()] == wanted
    assert all(p.grad is None for p in network.parameters())
    assert {module.training for module in network.modules()} == {False}
    assert torch.equal(x, given[0])
    assert torch.equal(y, given[1])
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_module_in_train_mode_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(12, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 4)).train()
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x, y = torch.rand(60, 12, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 4
    Cocktail()(network, x, y, low=None, high=None, seed=0)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())
    assert network.training
