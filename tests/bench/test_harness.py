"""Rows: complete, appended, and never made twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.test_imports import WEB_AND_DATABASE, loaded_by

from weir.bench.harness import Cell, Harness, key_of
from weir.bench.terms import Terms, burned_in, material
from weir.errors import InvalidSetting

FIELDS = {
    *("scenario", "guard", "seed", "dataset", "model", "lr", "norm_mode", "epsilon", "fraction", "probe_size"),
    *("attack_bites", "accuracy_start", "accuracy_before_trigger", "accuracy_after_trigger", "accuracy_final"),
    *("accuracy_reference", "plasticity_ratio", "held_poison_ratio", "corrected_poison_ratio", "touched_clean_ratio"),
    *(
        "touched_per_class",
        "auroc",
        "auroc_model_only",
        "roc",
        "alarms",
        "batches",
        "attack_success_rate",
        "vetoes",
        "steps",
    ),
    *("roc", "wall_s", "device", "versions"),
}


def test_a_row_has_every_field_and_survives_json(harness: Harness, terms: Terms) -> None:
    cell = Cell("backdoor", "weir", 0, terms)
    row = json.loads(json.dumps(harness.run(cell), allow_nan=False))
    assert set(row) >= FIELDS
    assert key_of(row) == cell.key
    assert row["attack_success_rate"] is not None
    assert row["epsilon"] == 1.0


def test_an_honest_scenario_has_no_figures_of_an_attack(harness: Harness, terms: Terms) -> None:
    row = harness.run(Cell("clean", "none", 0, terms))
    assert row["attack_bites"] is None
    assert row["accuracy_reference"] is None
    assert row["plasticity_ratio"] == 1


def test_the_standard_attack_bites_and_weir_stands(harness: Harness) -> None:
    terms = Terms(after=8)
    unguarded = harness.run(Cell("accumulative", "none", 0, terms))
    guarded = harness.run(Cell("accumulative", "weir", 0, terms))
    assert unguarded["attack_bites"]
    assert guarded["accuracy_after_trigger"] > unguarded["accuracy_after_trigger"] + 0.05
    assert guarded["held_poison_ratio"] > 0.9


def test_other_terms_are_another_run(terms: Terms) -> None:
    assert Cell("clean", "none", 0, terms).key != Cell("clean", "none", 0, replace(terms, lr=0.02)).key


@pytest.mark.parametrize(("scenario", "guard", "named"), [("nowhere", "none", "scenario"), ("clean", "moat", "guard")])
def test_unknown_names_are_refused(scenario: str, guard: str, named: str, terms: Terms) -> None:
    with pytest.raises(InvalidSetting, match=named):
        Cell(scenario, guard, 0, terms)


def test_a_burned_in_model_is_read_back_bit_for_bit_and_only_for_its_own_recipe(terms: Terms, tmp_path: Path) -> None:
    given, burn = material(terms, 0, None)
    made = burned_in(terms, given, burn, 0, tmp_path)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    read = burned_in(terms, given, burn, 0, tmp_path)
    assert file.stat().st_mtime_ns == stamp
    assert {name: tensor.tolist() for name, tensor in made.tensors.items()} == {
        name: tensor.tolist() for name, tensor in read.tensors.items()
    }
    assert json.loads(json.dumps(made.values)) == read.values
    burned_in(replace(terms, burn_in_epochs=1), given, burn, 0, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_bench_loads_where_there_is_no_web_or_database_package() -> None:
    loaded = loaded_by("import weir.bench.__main__")
    assert "weir.bench.harness" in loaded
    assert not loaded & (WEB_AND_DATABASE - {"typer"})
