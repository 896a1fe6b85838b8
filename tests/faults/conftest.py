"""A data folder that every run begins as a copy of."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.harness import ENVIRONMENT
from tests.faults.model import burned_in


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after burn-in, and an empty log."""
    place = tmp_path_factory.mktemp("faults") / "template"
    burned_in(place, ENVIRONMENT)
    return place


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.needs("redis-server"))])
def store(request: pytest.FixtureRequest) -> str:
    """The name of a backend."""
    name: str = request.param
    return name
