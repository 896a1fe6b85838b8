"""Rows gathered: what is a mean, what is a sum, and what one run lends another."""

from __future__ import annotations

from typing import Any

import pytest

from weir.bench.guards import GUARDS, Guard
from weir.bench.harness import Cell, Harness
from weir.bench.tables import MODEL_ONLY, averaged, tables
from weir.bench.terms import Terms


@pytest.fixture(scope="module")
def rows(harness: Harness, terms: Terms) -> list[dict[str, Any]]:
    return [harness.run(Cell("mixed", guard, 0, terms)) for guard in ("weir", "none")]


def test_means_are_over_seeds_and_counts_are_sums(rows: list[dict[str, Any]]) -> None:
    both = [{**rows[0], "accuracy_final": 0.5, "batches": 3}, {**rows[0], "accuracy_final": 0.7, "batches": 4}]
    figures = averaged(both)
    assert figures["accuracy_final"] == pytest.approx(0.6)
    assert figures["batches"] == 7


def test_a_producer_is_named_only_if_every_seed_names_it(rows: list[dict[str, Any]]) -> None:
    both = [{**rows[0], "named_after": 2}, {**rows[0], "named_after": None}]
    assert averaged(both)["named_after"] is None
    assert averaged([both[0], {**both[0], "named_after": 5}])["named_after"] == 5


def test_rows_of_other_terms_stand_in_another_table(rows: list[dict[str, Any]]) -> None:
    far = [{**row, "terms": row["terms"] | {"epsilon": 0.1}} for row in rows]
    assert [list(table.guards) for table in tables([*rows, *far])] == [["none", "weir"]] * 2


def test_model_only_evidence_is_read_from_its_own_run_of_the_same_stream(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GUARDS, MODEL_ONLY, Guard(MODEL_ONLY, "", lambda config: config))
    beside = {**rows[0], "guard": MODEL_ONLY, "auroc": 0.75}
    (table,) = tables([*rows, beside])
    assert table.figures("weir")["auroc_model_only"] == 0.75
    assert table.figures("none")["auroc_model_only"] is None
    (other,) = tables([*rows, {**beside, "seed": 1}])
    assert other.figures("weir")["auroc_model_only"] is None


def test_an_attack_counts_by_its_mean_over_seeds(rows: list[dict[str, Any]]) -> None:
    def bites(*losses: float) -> bool:
        made = tables({**rows[1], "seed": seed, "unguarded_loss": loss} for seed, loss in enumerate(losses))
        return made[0].bites

    assert bites(0.02, 0.09)
    assert not bites(0.02, 0.06)


def test_only_a_model_with_batch_norm_has_a_mode_of_it(rows: list[dict[str, Any]]) -> None:
    def norm(model: str, **options: Any) -> str:
        return tables([{**rows[0], "model": model, "terms": rows[0]["terms"] | {"options": options}}])[0].norm

    assert (norm("mlp"), norm("resnet18", width=8), norm("resnet18", norm="none")) == ("none", "frozen", "none")
