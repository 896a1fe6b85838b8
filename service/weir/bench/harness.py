"""Scenario × guard × seed × terms: one run, and the row of figures that it gives."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from weir import __version__
from weir.bench.figures import (
    accuracy_after_attack,
    accuracy_before_trigger,
    accuracy_final,
    attribution,
    bites,
    counts,
    detection,
    gain,
    lost,
    success_after_attack,
    threshold_shift,
    touched_ratio,
)
from weir.bench.guards import GUARDS
from weir.bench.scenario import SCENARIOS, Setting
from weir.bench.stream import Stream
from weir.bench.terms import Terms, burned_in, material
from weir.bench.traffic import hardware
from weir.bench.trial import Bench, Trial
from weir.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Cell:
    """One run."""

    scenario: str
    guard: str
    seed: int
    terms: Terms

    def __post_init__(self) -> None:
        for name, known in (("scenario", SCENARIOS), ("guard", GUARDS)):
            if getattr(self, name) not in known:
                raise InvalidSetting(name, getattr(self, name), ", ".join(known))

    @property
    def key(self) -> str:
        """What makes it this run and no other."""
        return json.dumps([self.scenario, self.guard, self.seed, self.terms.to_values()], sort_keys=True)

    @property
    def stream(self) -> str:
        """What it shares with the same run behind another guard."""
        return replace(self, guard="none").key


def key_of(row: dict[str, Any]) -> str:
    """The key of the cell that a row came from."""
    return json.dumps([row["scenario"], row["guard"], row["seed"], row["terms"]], sort_keys=True)


@dataclass(slots=True)
class Harness:
    """Runs cells; what cells share (a burned-in model, the unguarded run of a stream) is made once."""

    data: Path | None = None
    cache: Path | None = None
    _benches: dict[tuple[str, int], Bench] = field(default_factory=dict)
    _trials: dict[tuple[str, str, bool], Trial] = field(default_factory=dict)
    _last: str = ""  # the last cell's: of other streams only the unguarded runs are kept

    def run(self, cell: Cell) -> dict[str, Any]:
        """The row of one cell, JSON-ready."""
        self._forget(cell)
        trial, unguarded = self._trial(cell), self._trial(self._by(cell, "none"))
        stream = self._stream(cell)
        reference = self._trial(cell, absent=True) if stream.hostile else trial
        spared = self._trial(self._by(cell, "none"), absent=True) if stream.hostile else unguarded
        row = self._identity(cell) | {
            "attack_bites": bites(unguarded, spared) if stream.hostile else None,
            "unguarded_loss": lost(unguarded, spared) if stream.hostile else None,
            "unguarded_success_rate": success_after_attack(unguarded),
            "accuracy_start": trial.accuracy[0],
            "accuracy_before_trigger": accuracy_before_trigger(trial),
            "accuracy_after_trigger": accuracy_after_attack(trial) if stream.hostile else None,
            "accuracy_final": accuracy_final(trial),
            "accuracy_reference": accuracy_after_attack(reference) if stream.hostile else None,
            "accuracy_reference_final": accuracy_final(reference) if stream.hostile else None,
            "accuracy_unguarded_reference": accuracy_after_attack(spared) if stream.hostile else None,
            "plasticity_ratio": gain(reference) / gain(spared) if gain(spared) > 0 else None,
            "unguarded_gain": gain(spared),
            "gain_ratio": gain(trial) / gain(reference) if stream.hostile and gain(reference) > 0 else None,
            "old_accuracy": list(trial.old_accuracy) if stream.drift else None,
            "unguarded_old_accuracy": list(unguarded.old_accuracy) if stream.drift else None,
            "attack_success_rate": success_after_attack(trial),
            "threshold_shift": threshold_shift(trial, reference) if stream.hostile else None,
        }
        row |= detection(trial, self._bench(cell).given.recipe.inputs.classes) | counts(trial) | attribution(trial)
        return row | {
            "auroc_model_only": None,  # another guard's, on the same stream: the report joins it
            "accuracy": [round(value, 4) for value in trial.accuracy],
            "wall_s": round(trial.seconds, 3),
            "device": hardware(cell.terms.device)["device"],
            "threads": torch.get_num_threads(),
            "versions": {"weir": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }

    def _forget(self, cell: Cell) -> None:
        if cell.stream != self._last:
            self._trials = {at: trial for at, trial in self._trials.items() if at[0] == "none"}
            self._last = cell.stream

    def _identity(self, cell: Cell) -> dict[str, Any]:
        terms = cell.terms
        threats = [turn.corruption.threat for turn in self._stream(cell).turns if turn.corruption]
        return {
            "scenario": cell.scenario,
            "guard": cell.guard,
            "seed": cell.seed,
            "dataset": terms.dataset,
            "model": terms.model,
            "lr": terms.lr,
            "norm_mode": terms.norm_mode,
            "epsilon": threats[0].epsilon if threats else None,
            "fraction": threats[0].fraction if threats else None,
            "probe_size": terms.probe,
            "terms": terms.to_values(),
        }

    def _by(self, cell: Cell, guard: str) -> Cell:
        return replace(cell, guard=guard)

    def _stream(self, cell: Cell) -> Stream:
        bench = self._bench(cell)
        return SCENARIOS[cell.scenario](Setting.of(cell.terms, bench.given, cell.seed, bench.anchor))

    def _bench(self, cell: Cell) -> Bench:
        key = (json.dumps(cell.terms.to_values(), sort_keys=True), cell.seed)
        if key not in self._benches:
            given, burn = material(cell.terms, cell.seed, self.data, self.cache)
            state = burned_in(cell.terms, given, burn, cell.seed, self.cache)
            self._benches[key] = Bench(cell.terms, given, state, cell.seed)
        return self._benches[key]

    def _trial(self, cell: Cell, *, absent: bool = False) -> Trial:
        key = (cell.guard, cell.key, absent)
        if key not in self._trials:
            guard = GUARDS[cell.guard]
            rate = touched_ratio(self._trial(self._by(cell, "weir"), absent=absent)) if guard.imitates else 0.0
            self._trials[key] = self._bench(cell).run(guard, self._stream(cell), rate=rate, absent=absent)
        return self._trials[key]
