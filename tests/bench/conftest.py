"""A bench small enough for tests: a short stream of digits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weir.bench.harness import Harness
from weir.bench.scenario import SCENARIOS, Setting
from weir.bench.stream import Stream
from weir.bench.terms import PRESETS, Terms, burned_in, material
from weir.bench.trial import Bench

SMALL = replace(PRESETS["digits"], before=2, attack=2, after=3, trigger=30, pool=200, test=100)


def stream(bench: Bench, scenario: str) -> Stream:
    """A fresh stream of a scenario."""
    return SCENARIOS[scenario](Setting.of(bench.terms, bench.given, bench.seed, bench.anchor))


@pytest.fixture(scope="session")
def terms() -> Terms:
    return SMALL


@pytest.fixture(scope="session")
def bench(terms: Terms) -> Bench:
    given, burn = material(terms, 0, None)
    return Bench(terms, given, burned_in(terms, given, burn, 0, None), 0)


@pytest.fixture(scope="session")
def harness() -> Harness:
    return Harness()
