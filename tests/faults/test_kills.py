"""Killed again and again, the real service ends as if nothing had happened: nothing lost, doubled or otherwise."""

from __future__ import annotations

from pathlib import Path

from tests.faults import harness
from tests.faults.backends import BACKENDS


def test_killed_ten_times_at_random_instants(store: str, tmp_path: Path, template: Path) -> None:
    deaths = harness.at_random(10, seed=1)
    # The vaccine takes its time at every start, and knows nothing of stores: one of them is enough.
    without = {} if store == "sqlite" else harness.WITHOUT_VACCINE
    with BACKENDS[store](tmp_path / "data", template) as backend:
        outcome = harness.run(backend, tmp_path / "log", deaths, seed=1, environment={**harness.ENVIRONMENT, **without})
    outcome.check()
    assert outcome.acknowledged > 50


def test_killed_once_at_every_named_point(store: str, tmp_path: Path, template: Path) -> None:
    environment = {**harness.ENVIRONMENT, **harness.WITHOUT_VACCINE}
    with BACKENDS[store](tmp_path / "data", template) as backend:
        outcome = harness.run(backend, tmp_path / "log", harness.at_points(seed=2), seed=2, environment=environment)
    outcome.check()
