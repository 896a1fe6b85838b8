"""Rows gathered into tables: one for each scenario and terms, in it the runs of every guard."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weir.bench.bars import Bar, bars
from weir.bench.figures import BITES, BITES_SUCCESS
from weir.bench.guards import GUARDS
from weir.bench.scenario import SCENARIOS

Row = Mapping[str, Any]

ALL_EVIDENCE, MODEL_ONLY = "weir", "weir-model-only"  # the second is measured beside the first, on the same stream
PUBLISHED = "dsc-calibrated"
SUMS = (
    *("batches", "alarms", "step_alarms", "blamed_honest", "honest_batches", "vetoes", "vetoes_on_clean"),
    *("poisoned_batches", "alarms_on_poison", "touched_batches", "called_poison", "drift_steps"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """Runs that differ in guard and seed alone, by guard, in the order of the guards."""

    guards: Mapping[str, Sequence[Row]]

    @property
    def row(self) -> Row:
        """One of its rows, for what is alike in all."""
        return next(iter(self.guards.values()))[0]

    @property
    def scenario(self) -> str:
        """The scenario's name."""
        return str(self.row["scenario"])

    @property
    def terms(self) -> Mapping[str, Any]:
        """The terms, as values."""
        return dict(self.row["terms"])

    @property
    def model(self) -> str:
        """Data set and model in words."""
        options = " ".join(f"{name} {value}" for name, value in self.terms["options"].items())
        return f"{self.row['dataset']}, {self.row['model']} {options}".strip()

    @property
    def norm(self) -> str:
        """What batch norm does on the stream, if the model has any."""
        plain = self.row["model"] in ("mlp", "cnn") or self.terms["options"].get("norm", "batch") != "batch"
        return "none" if plain else str(self.row["norm_mode"])

    @property
    def place(self) -> str:
        """Model, rate and batch norm in words."""
        return f"{self.model}, lr {self.row['lr']:g}, BN {self.norm}"

    @property
    def epsilon(self) -> float | None:
        """How far samples are moved; None where nothing bounds it, as with labels, patches and drift."""
        epsilon = self.row["epsilon"]
        return None if epsilon is None or epsilon >= 1 else float(epsilon)

    @property
    def seeds(self) -> list[int]:
        """All seeds that a guard has run with."""
        return sorted({run["seed"] for runs in self.guards.values() for run in runs})

    @property
    def attacked(self) -> bool:
        """Whether anyone means harm."""
        return self.row["attack_bites"] is not None

    @property
    def loss(self) -> float:
        """Accuracy that the attack costs an unguarded model, mean over seeds."""
        return mean(run["unguarded_loss"] for run in self._first) or 0.0

    @property
    def success(self) -> float | None:
        """How often the backdoor of an unguarded model opens; None without one."""
        return mean(run["unguarded_success_rate"] for run in self._first)

    @property
    def bites(self) -> bool:
        """Whether the attack counts, in the mean over seeds."""
        return self.attacked and (self.loss >= BITES or (self.success or 0.0) >= BITES_SUCCESS)

    def figures(self, guard: str) -> dict[str, Any]:
        """A guard's means over seeds, beside what the published rule keeps after the attack."""
        rule = averaged(self.guards[PUBLISHED])["accuracy_after_trigger"] if PUBLISHED in self.guards else None
        return averaged(self.guards[guard]) | {"published_after_trigger": rule}

    def bars(self, guard: str) -> list[Bar]:
        """The bars of the scenario for a guard."""
        return bars(self.scenario, self.figures(guard))

    @property
    def _first(self) -> Sequence[Row]:
        return next(iter(self.guards.values()))


def tables(rows: Iterable[Row]) -> list[Table]:
    """All tables of the rows, in the order of the scenarios and then of the rows."""
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    scenarios, guards = list(SCENARIOS), list(GUARDS)
    for row in sorted(rows, key=lambda row: (scenarios.index(row["scenario"]), guards.index(row["guard"]))):
        groups[json.dumps([row["scenario"], row["terms"]], sort_keys=True)][row["guard"]].append(row)
    return [Table(_joined(found)) for found in groups.values()]


def averaged(runs: Sequence[Row]) -> dict[str, Any]:
    """One guard's figures: means over seeds of what is a number in every run, else None; counts are sums."""
    figures: dict[str, Any] = {}
    for name, value in runs[0].items():
        values = [run[name] for run in runs]
        if name in SUMS:
            figures[name] = sum(values)
        elif name == "touched_per_class":
            figures[name] = [_known_mean(column) for column in zip(*values, strict=True)]
        elif isinstance(value, int | float) or value is None:
            figures[name] = mean(values)
    named = [run["named_after"] for run in runs]
    figures["named_after"] = None if None in named else max(named)
    for name in ("held_poison_ratio", "corrected_poison_ratio"):
        figures[name] = figures[name] or 0.0
    figures["scenario"] = runs[0]["scenario"]
    figures["sample_rate"] = runs[0]["terms"]["sample_rate"]
    return figures


def mean(values: Iterable[float | None]) -> float | None:
    """The mean; None when a value is missing."""
    known = list(values)
    return statistics.fmean(v for v in known if v is not None) if known and None not in known else None


def _known_mean(values: Iterable[float | None]) -> float:
    """The mean of what is known: a rare class may be absent in one seed's stream."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else 0.0


def _joined(guards: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Beside the AUROC of all evidence that of model-only evidence, from its own run of the same stream."""
    found = {row["seed"]: row["auroc"] for row in guards.get(MODEL_ONLY, [])}
    return {
        guard: [{**row, "auroc_model_only": found.get(row["seed"])} for row in runs] if guard == ALL_EVIDENCE else runs
        for guard, runs in guards.items()
    }
