"""What each guard of the harness does to a step."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests.bench.conftest import stream

from weir.bench.guards import CLIP_NORM, GUARDS
from weir.bench.trial import Bench, Moment, Trial
from weir.core import Engine
from weir.types import SampleRef, Step, Verdict


def verdicts(trial: Trial) -> Counter[Verdict]:
    return Counter(verdict.verdict for moment in trial.moments for verdict in moment.report.verdicts)


def ran(bench: Bench, guard: str, scenario: str = "clean", rate: float = 0.0) -> Trial:
    return bench.run(GUARDS[guard], stream(bench, scenario), rate=rate)


def one_step(engine: Engine, bench: Bench) -> Step:
    x, y = bench.given.honest.x[:25], (bench.given.honest.y[:25] + 1) % 10
    return Step(0, x, y, [SampleRef("b", index) for index in range(25)], ["ann"] * 25)


@pytest.mark.parametrize("guard", GUARDS)
def test_every_guard_runs_and_repeats(guard: str, bench: Bench) -> None:
    first, second = (ran(bench, guard, "accumulative", 0.3) for _ in range(2))
    assert first.accuracy == second.accuracy
    assert all(isinstance(moment, Moment) for moment in first.moments)


def test_hold_all_learns_nothing_and_hold_nothing_learns_as_no_guard_does(bench: Bench) -> None:
    assert len(set(ran(bench, "hold-all").accuracy)) == 1
    assert ran(bench, "hold-nothing").accuracy == ran(bench, "none").accuracy
    assert len(set(ran(bench, "none").accuracy)) > 1


def test_only_what_measures_has_scores(bench: Bench) -> None:
    assert all(v.score is not None for m in ran(bench, "hold-nothing").moments for v in m.report.verdicts)
    assert all(v.score is None for m in ran(bench, "none").moments for v in m.report.verdicts)


def test_hold_random_holds_the_share_it_is_told(bench: Bench) -> None:
    found = verdicts(ran(bench, "hold-random", rate=0.5))
    assert 0.35 < found[Verdict.QUARANTINE] / found.total() < 0.65


def test_correct_all_corrects_everything_and_lowers_the_loss(bench: Bench) -> None:
    corrected, plain = ran(bench, "correct-all"), ran(bench, "none")
    assert set(verdicts(corrected)) == {Verdict.CORRECT}
    losses = [(a.report.loss or 0, b.report.loss or 0) for a, b in zip(corrected.moments, plain.moments, strict=True)]
    assert losses[0][0] < losses[0][1] - 0.1


def test_gate_only_gives_no_verdicts_of_its_own_but_tests_every_step(bench: Bench) -> None:
    moments = ran(bench, "gate-only", "accumulative").moments
    assert all(moment.report.gate is not None for moment in moments)
    kept = [v.verdict for m in moments if not m.report.vetoed for v in m.report.verdicts]
    assert set(kept) == {Verdict.ACCEPT}


def test_clipping_bounds_the_step_and_leaves_other_engines_alone(bench: Bench) -> None:
    clipped, plain = bench.engine(GUARDS["clipping"]), bench.engine(GUARDS["none"])

    def length(engine: Engine, guard: str) -> float:
        before = engine.weights()
        GUARDS[guard].process(engine, one_step(engine, bench), 0.0)
        after = engine.weights()
        return float(torch.cat([(after[name] - before[name]).flatten() for name in before]).norm())

    assert length(clipped, "clipping") == pytest.approx(CLIP_NORM * bench.terms.lr, rel=1e-3)
    assert length(plain, "none") > 2 * CLIP_NORM * bench.terms.lr
