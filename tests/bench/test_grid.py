"""The fixed grids hold what they are for, cheapest first."""

from __future__ import annotations

from dataclasses import replace

from weir.bench.bars import ROOM
from weir.bench.figures import BITES
from weir.bench.grid import ATTACKS, CORE, HONEST, LEARNING, SETTLED, ci, ordered, product, small
from weir.bench.harness import Cell, Harness
from weir.bench.scenario import SCENARIOS


def test_every_scenario_is_an_attack_or_honest() -> None:
    assert set(HONEST) | set(ATTACKS) == set(SCENARIOS)


def test_the_small_grid_holds_every_scenario_and_core_guard_under_each_treatment_of_batch_norm() -> None:
    cells = small(list(SCENARIOS), CORE, (0, 1))
    resnets = [cell for cell in cells if cell.terms.model == "resnet18"]
    kinds = {(cell.terms.norm_mode, cell.terms.options.get("norm", "batch")) for cell in resnets}
    assert kinds == {("frozen", "batch"), ("train", "batch"), ("frozen", "none")}
    assert len(resnets) == 3 * len(SCENARIOS) * len(CORE)
    assert {(cell.scenario, cell.guard) for cell in cells} == {(s, g) for s in SCENARIOS for g in CORE}
    assert len({cell.key for cell in cells}) == len(cells)


def test_cells_run_core_guards_first_then_small_models_and_keep_the_guards_of_a_stream_together() -> None:
    cells = ordered(small(["clean", "mixed"], ["hold-all", *CORE], (0,)))
    assert [cell.guard in CORE for cell in cells] == sorted((cell.guard in CORE for cell in cells), reverse=True)
    core = [cell for cell in cells if cell.guard in CORE]
    models = [cell.terms.model for cell in core]
    assert models == sorted(models)
    streams = [cell.stream for cell in core]
    assert all(len(set(streams[at : at + 3])) == 1 for at in range(0, len(streams), 3))


def test_the_slice_for_ci_is_part_of_the_grid() -> None:
    whole = small(list(SCENARIOS), CORE, (0,))
    assert {replace(cell, seed=0).key for cell in ci()} <= {cell.key for cell in whole}


def test_what_ci_stands_on_bites_and_leaves_room_to_learn(harness: Harness) -> None:
    (attacked,) = product(["label_flip"], ["none"], [0], SETTLED)
    assert harness.run(attacked)["unguarded_loss"] >= BITES
    assert harness.run(Cell("clean", "none", 0, LEARNING))["unguarded_gain"] >= ROOM
