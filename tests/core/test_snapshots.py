"""The ring by age, and the anchor outside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from weir.core.config import SnapshotConfig
from weir.core.snapshots import Snapshots
from weir.types import Arithmetic, State

OWN = {"w": torch.zeros(1)}


def run(snapshots: Snapshots, first: int, last: int) -> list[int | None]:
    """After each update the age of the reference, None while the anchor serves."""
    ages: list[int | None] = []
    for updates in range(first, last + 1):
        if snapshots.due(updates):
            snapshots.record(updates, {"w": torch.tensor([float(updates)])})
        reference = snapshots.reference()
        assert reference is not None
        assert reference.weights["w"].item() == reference.updates
        ages.append(None if reference is snapshots.anchor else updates - reference.updates)
    return ages


def ring(**config: Any) -> Snapshots:
    snapshots = Snapshots(SnapshotConfig(**config))
    snapshots.trust(-100, {"w": torch.tensor([-100.0])})
    return snapshots


def test_a_new_one_has_no_reference() -> None:
    assert Snapshots(SnapshotConfig()).reference() is None
    assert Snapshots(SnapshotConfig(lag=3)).reference() is None


@pytest.mark.parametrize("lag", [1, 2, 7])
def test_with_a_snapshot_each_update_the_reference_is_exactly_the_lag_old(lag: int) -> None:
    ages = run(ring(lag=lag), 1, 30)
    assert ages == [None] * lag + [lag] * (30 - lag)


@pytest.mark.parametrize(("lag", "every"), [(10, 5), (10, 4), (3, 5), (1, 2)])
def test_with_fewer_snapshots_the_reference_is_at_least_the_lag_old_and_less_than_one_interval_more(
    lag: int, every: int
) -> None:
    ages = [age for age in run(ring(lag=lag, every=every), 1, 60) if age is not None]
    rounded = -(-lag // every) * every
    assert min(ages) == rounded >= lag
    assert max(ages) == rounded + every - 1
    assert len(ages) > 30


def test_a_ring_that_is_not_full_leaves_it_to_the_anchor_and_never_compares_a_model_with_itself() -> None:
    ages = run(ring(lag=5), 1, 20)
    assert 0 not in ages
    lone = Snapshots(SnapshotConfig(lag=2))
    for updates in (1, 2):
        lone.record(updates, {})
        assert lone.reference() is None
    lone.record(3, {})
    reference = lone.reference()
    assert reference is not None
    assert reference.updates == 1


def test_without_a_lag_the_anchor_stays_whatever_streams_in() -> None:
    snapshots = ring()
    assert run(snapshots, 1, 50) == [None] * 50
    assert not snapshots.due(10)
    assert snapshots.anchor is not None
    assert snapshots.anchor.updates == -100


@pytest.mark.parametrize("config", [{}, {"lag": 4}, {"lag": 9, "every": 2}])
def test_a_restart_goes_on_alike(config: dict[str, Any]) -> None:
    one, other = ring(**config), Snapshots(SnapshotConfig(**config))
    run(one, 1, 13)
    state = one.state()
    other.load_state(State(state.tensors, json.loads(json.dumps(state.values))), OWN)
    assert other.state().values == state.values
    assert list(other.state().tensors) == list(state.tensors)
    assert run(other, 14, 40) == run(one, 14, 40)


def test_a_shorter_ring_keeps_the_newest() -> None:
    long, short = ring(lag=8), Snapshots(SnapshotConfig(lag=2))
    run(long, 1, 20)
    short.load_state(long.state(), OWN)
    reference = short.reference()
    assert reference is not None
    assert reference.updates == 18


def test_the_anchor_scores_in_its_arithmetic_and_is_kept_to_the_last_bit() -> None:
    weights = {"w": torch.rand(4, 3, 3, 3), "b": torch.rand(4), "n": torch.tensor([3])}
    snapshots = Snapshots(SnapshotConfig(), arithmetic=Arithmetic.BFLOAT16, layout=torch.channels_last)
    snapshots.trust(0, weights)
    again = Snapshots(SnapshotConfig())
    again.load_state(snapshots.state(), weights)
    kinds = (
        (snapshots.anchor, torch.bfloat16, torch.channels_last),
        (again.anchor, torch.float32, torch.contiguous_format),
    )
    for held, dtype, memory in kinds:
        assert held is not None
        assert all(torch.equal(held.weights[name], tensor) for name, tensor in weights.items())
        assert [held.scoring[name].dtype for name in ("w", "b", "n")] == [dtype, dtype, torch.int64]
        assert held.scoring["w"].is_contiguous(memory_format=memory)
        torch.testing.assert_close(held.scoring["w"].float(), weights["w"], rtol=1e-2, atol=0)
