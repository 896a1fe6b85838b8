"""Ranges of the tunables."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from weir.core.config import (
    CorrectionConfig,
    EngineConfig,
    GateConfig,
    GuardConfig,
    LearnerConfig,
    SnapshotConfig,
    Tunables,
)
from weir.errors import InvalidSetting

CONFIGS: list[type[Tunables]] = [
    LearnerConfig, SnapshotConfig, CorrectionConfig, GuardConfig, GateConfig, EngineConfig
]  # fmt: skip
BOUNDED = [
    pytest.param(config, field, id=f"{config.__name__}.{field.name}")
    for config in CONFIGS
    for field in dataclasses.fields(config)
    if {"low", "high"} & {name for name, value in field.metadata.items() if value is not None}
]


@pytest.mark.parametrize(("config", "field"), BOUNDED)
def test_a_value_out_of_range_is_refused_by_name(config: type[Tunables], field: dataclasses.Field[Any]) -> None:
    low, high = field.metadata["low"], field.metadata["high"]
    beyond = [low - 1] if low is not None else []
    beyond += [high + 1] if high is not None else []
    for value in [*beyond, math.nan]:
        with pytest.raises(InvalidSetting) as raised:
            config(**{field.name: value})
        assert (raised.value.field, raised.value.seen) == (field.name, str(value))


@pytest.mark.parametrize(("config", "field"), BOUNDED)
def test_the_bounds_themselves_are_allowed(config: type[Tunables], field: dataclasses.Field[Any]) -> None:
    for value in (field.metadata["low"], field.metadata["high"]):
        if value is not None:
            assert getattr(config(**{field.name: value}), field.name) == value


def test_every_tunable_says_what_it_does() -> None:
    for config in CONFIGS:
        for field in dataclasses.fields(config):
            assert field.metadata.get("help") or issubclass(type(getattr(config(), field.name)), Tunables), field.name
