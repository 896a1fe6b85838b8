"""The probe set: its split, its refusals, its name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from weir.core.calibration import smallest_size
from weir.core.config import GuardConfig
from weir.core.probe import SHARES, ProbeSet
from weir.errors import InvalidProbe
from weir.types import GuardMode, InputSpec, State

if TYPE_CHECKING:
    from tests.core.conftest import World

INPUTS = InputSpec((6,), 3)
GUARD = GuardConfig(sample_rate=0.05)


def probe_set(x: Tensor, y: Tensor) -> ProbeSet:
    return ProbeSet(x, y, created_at=5.0, source="tests")


def labelled(*counts: int) -> tuple[Tensor, Tensor]:
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return torch.rand(len(y), 6, generator=torch.Generator().manual_seed(0)), y


def per_class(probe: ProbeSet) -> dict[str, list[int]]:
    return {name: torch.bincount(probe.part(name).y, minlength=len(probe.info.per_class)).tolist() for name in SHARES}


@pytest.mark.parametrize("counts", [(140, 140, 140), (300, 40, 9), (4, 4, 4), (100, 4, 100)])
def test_the_parts_are_disjoint_whole_and_every_class_is_in_each(counts: tuple[int, ...]) -> None:
    x, y = labelled(*counts)
    probe = probe_set(x, y)
    rows = torch.cat([torch.cat([probe.part(name).x, probe.part(name).y[:, None]], dim=1) for name in SHARES])
    assert len(rows) == len(probe) == len(y)
    assert len({tuple(row) for row in rows.tolist()}) == len(y)
    assert all(min(found) >= 1 for found in per_class(probe).values())


@pytest.mark.parametrize("counts", [(140, 140, 140), (300, 40, 21)])
def test_the_parts_have_their_shares_of_every_class(counts: tuple[int, ...]) -> None:
    found = per_class(probe_set(*labelled(*counts)))
    for name, share in SHARES.items():
        assert sum(found[name]) == pytest.approx(share * sum(counts), abs=1.5)
        for mine, count in zip(found[name], counts, strict=True):
            assert mine == pytest.approx(share * count, abs=3)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_rows_of_a_part_are_those_of_the_whole_part() -> None:
    probe = probe_set(*labelled(20, 20, 20))
    rows = torch.tensor([4, 0, 4])
    for name in SHARES:
        whole = probe.part(name)
        assert probe.size(name) == len(whole.y)
        assert all(torch.equal(some, all_of[rows]) for some, all_of in zip(probe.part(name, rows), whole, strict=True))


def test_the_split_and_the_version_depend_on_the_content_alone() -> None:
    x, y = labelled(50, 50, 50)
    one, same, other = probe_set(x, y), probe_set(x.clone(), y.clone()), probe_set(x + 1, y)
    assert one.info == same.info
    assert one.info.version != other.info.version
    assert all(torch.equal(one.part(name).x, same.part(name).x) for name in SHARES)
    assert not torch.equal(one.part("gate").x + 1, other.part("gate").x)
    relabelled = probe_set(x, y.flip(0))
    assert relabelled.info.version != one.info.version


def test_splitting_leaves_the_running_generator_alone() -> None:
    state = torch.get_rng_state()
    probe_set(*labelled(20, 20, 20))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_info_says_size_and_classes_and_nothing_of_the_samples() -> None:
    info = probe_set(*labelled(30, 20, 10)).info
    assert (info.size, info.per_class, info.created_at, info.source) == (60, (30, 20, 10), 5.0, "tests")
    assert len(info.version) == 12


def test_a_restart_has_the_same_parts() -> None:
    probe = probe_set(*labelled(30, 20, 10))
    state = probe.state()
    again = ProbeSet.from_state(State(state.tensors, json.loads(json.dumps(state.values))))
    assert again.info == probe.info
    assert all(torch.equal(again.part(name).x, probe.part(name).x) for name in SHARES)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (torch.rand(3, 6), torch.tensor([0, 1]), r"y torch.int64 \[2\] for x \[3, 6\]"),
        (torch.rand(2, 6), torch.tensor([[0], [1]]), r"\[2, 1\]"),
        (torch.rand(2, 6), torch.tensor([0.0, 1.0]), "float32"),
        (torch.rand(2, 6), torch.tensor([0, -1]), "the label -1"),
        (torch.tensor([[0.0], [torch.nan]]), torch.tensor([0, 1]), "NaN"),
    ],
)
def test_what_no_probe_set_can_be_is_refused(x: Tensor, y: Tensor, says: str) -> None:
    with pytest.raises(InvalidProbe, match=says):
        probe_set(x, y)


def test_samples_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidProbe, match=r"expected shape \[n, 2, 3\], got \[120, 6\]"):
        probe_set(*labelled(40, 40, 40)).check(InputSpec((2, 3), 3), GUARD)


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(InvalidProbe, match="labels from 0 to 2, got the label 3"):
        probe_set(*labelled(40, 40, 40, 1)).check(INPUTS, GUARD)


@pytest.mark.parametrize(("counts", "says"), [((100, 100), "class 2: 0"), ((100, 3, 100), "class 1: 3")])
def test_a_class_that_is_missing_or_scarce_is_refused_by_name(counts: tuple[int, ...], says: str) -> None:
    with pytest.raises(InvalidProbe, match=says) as raised:
        probe_set(*labelled(*counts)).check(INPUTS, GUARD)
    assert raised.value.code == "probe_class_missing"


@pytest.mark.parametrize("rate", [0.05, 0.02])
def test_too_few_samples_for_the_rate_are_refused_with_the_n_it_needs(world: World, rate: float) -> None:
    guard = GuardConfig(sample_rate=rate)
    needed = smallest_size(rate)
    enough = round(needed / SHARES["threshold"]) + 2
    probe_set(*world.samples(enough, seed=1)).check(INPUTS, guard)
    with pytest.raises(InvalidProbe, match=rf"about {round(needed / SHARES['threshold'])} samples \({needed} for") as e:
        probe_set(*world.samples(enough - 12, seed=1)).check(INPUTS, guard)
    assert e.value.code == "probe_too_small"
    assert str(enough - 12) in e.value.seen


@pytest.mark.parametrize("n", range(90, 110))
def test_the_rate_that_a_small_set_is_told_of_is_one_that_it_carries(world: World, n: int) -> None:
    small = probe_set(*world.samples(n, seed=1))
    with pytest.raises(InvalidProbe) as raised:
        small.check(INPUTS, GuardConfig(sample_rate=0.01))
    rate = float(raised.value.expected.rsplit(" ", 1)[1])
    small.check(INPUTS, GuardConfig(sample_rate=rate))


def test_a_guard_that_is_off_takes_any_size(world: World) -> None:
    probe_set(*world.samples(12, seed=1)).check(INPUTS, GuardConfig(mode=GuardMode.OFF, sample_rate=0.001))
