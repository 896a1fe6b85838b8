"""The bars of all tables for a machine to read, and those that must be met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from weir.bench.guards import GUARDS
from weir.bench.scenario import SCENARIOS
from weir.bench.tables import Table
from weir.errors import InvalidSetting


def summary(made: Iterable[Table]) -> list[dict[str, Any]]:
    """For each table and guard the bars, JSON-ready, beside what identifies them."""
    return [
        {
            "scenario": table.scenario,
            "guard": guard,
            "model": table.model,
            "norm": table.norm,
            "epsilon": table.row["epsilon"],
            "fraction": table.row["fraction"],
            "lr": table.row["lr"],
            "seeds": [run["seed"] for run in runs],
            "attack_bites": table.bites if table.attacked else None,
            "terms": table.terms,
            "bars": [asdict(bar) for bar in table.bars(guard)],
        }
        for table in made
        for guard, runs in table.guards.items()
    ]


@dataclass(frozen=True, slots=True)
class Requirement:
    """A guard that must meet every bar of a scenario, or of ``all`` that were run, in all tables whose attack bites."""

    scenario: str
    guard: str

    def missed(self, made: Sequence[Table]) -> list[str]:
        """A line for each bar that is missed; and one if there is no table that could show it."""
        mine = [table for table in made if self.scenario in (table.scenario, "all") and self.guard in table.guards]
        counted = [table for table in mine if table.bites or not table.attacked]
        if not counted:
            return [f"{self.scenario}:{self.guard}: " + ("no attack bites" if mine else "no runs")]
        return [
            f"{table.scenario}:{self.guard} ({table.place}): {bar.said}"
            for table in counted
            for bar in table.bars(self.guard)
            if bar.met is False
        ]


def required(text: str) -> list[Requirement]:
    """What ``scenario:guard`` asks, with commas; the scenario ``all`` stands for each. Raises InvalidSetting."""
    return [_required(pair.strip()) for pair in text.split(",")]


def _required(pair: str) -> Requirement:
    scenario, _, guard = pair.partition(":")
    if guard not in GUARDS:
        raise InvalidSetting("require", pair, f"scenario:guard, with one of the guards {', '.join(GUARDS)}")
    if scenario not in (*SCENARIOS, "all"):
        raise InvalidSetting("require", pair, f"scenario:guard, with one of the scenarios {', '.join(SCENARIOS)}, all")
    return Requirement(scenario, guard)
