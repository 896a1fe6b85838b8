"""The gate's two paired tests by hand, and their rate on harmless steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from weir.core.config import GateConfig
from weir.core.gate import Gate, finite, paired_statistic, student_quantile
from weir.types import DeclinePolicy, GateReport

CPU = torch.device("cpu")
BEFORE = torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3, 0.6, 0.2, 0.1])


@pytest.mark.parametrize(
    ("probability", "freedom", "table"),
    [
        (0.975, 10, 2.228),
        (0.95, 30, 1.697),
        (0.95, 5, 2.015),
        (0.99, 20, 2.528),
        (0.995, 60, 2.660),
        (0.9995, 120, 3.373),
        (0.9975, 10, 3.581),
        (0.975, 1_000_000, 1.960),
    ],
)
def test_students_quantile_against_the_tables(probability: float, freedom: int, table: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(table, abs=0.006)


def test_the_paired_statistic_by_hand() -> None:
    harm = torch.tensor([0.1, 0.3, 0.2, 0.2])  # mean 0.2, sd 0.081650, standard error 0.040825
    assert paired_statistic(harm, 0.0) == pytest.approx(4.89898, rel=1e-5)
    assert paired_statistic(harm, 0.15) == pytest.approx(0.05 / 0.0408248, rel=1e-5)


def test_harm_without_any_spread_is_certain() -> None:
    assert paired_statistic(torch.full((5,), 0.5), 0.1) == math.inf
    assert paired_statistic(torch.zeros(5), 0.0) == -math.inf
    assert paired_statistic(torch.full((5,), 0.5), 0.6) == -math.inf


def noise(n: int, scale: float, *, seed: int = 0) -> Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_a_harmful_step_is_vetoed_and_the_report_says_why() -> None:
    gate = Gate(GateConfig(tolerance=0.02, rate=0.01))
    after = BEFORE + 0.1 + noise(8, 0.02)
    report = gate.test(BEFORE, after)
    assert report.vetoed
    assert report.harm == pytest.approx(float((after - BEFORE).mean()))
    assert report.statistic == pytest.approx(paired_statistic(after - BEFORE, 0.02))
    assert report.threshold == pytest.approx(student_quantile(0.995, 7))
    assert report.statistic is not None
    assert report.threshold is not None
    assert report.statistic > report.threshold


def test_harm_within_the_tolerance_passes() -> None:
    assert not Gate(GateConfig(tolerance=0.2, decline=0.2)).test(BEFORE, BEFORE + 0.1 + noise(8, 0.02)).vetoed


def test_harm_that_no_single_step_shows_adds_up_to_a_veto() -> None:
    gate = Gate(GateConfig(tolerance=0.02, decline=0.05))
    losses, passed = BEFORE, 0
    for step in range(20):
        after = losses + 0.015 + noise(8, 0.001, seed=step)
        assert paired_statistic(after - losses, 0.02) < 0
        if gate.test(losses, after).vetoed:
            break
        gate.passed(after)
        losses, passed = after, passed + 1
    assert passed == 3


def test_the_decline_counts_from_the_model_before_the_very_first_step() -> None:
    gate = Gate(GateConfig(tolerance=0.1, decline=0.05))
    gate.passed(BEFORE + 0.04)  # kept before anything was tested: forgotten
    gate.reset()
    first = BEFORE + 0.04 + noise(8, 0.001)
    assert not gate.test(BEFORE, first).vetoed
    gate.passed(first)
    assert gate.test(first, first + 0.03 + noise(8, 0.001, seed=1)).vetoed


def test_the_best_is_the_best_that_was_kept() -> None:
    gate = Gate(GateConfig(tolerance=0.5, decline=0.05))
    better = BEFORE - 0.08 + noise(8, 0.001)
    gate.test(BEFORE, better)
    gate.passed(better)
    gate.passed(BEFORE)  # worse: not remembered
    assert gate.test(better, BEFORE).vetoed


def test_a_model_below_its_best_may_recover() -> None:
    """While another mode was in force nothing was tested; every way back leads through models below the best."""
    gate = Gate(GateConfig(decline=0.05))
    gate.test(BEFORE, BEFORE - 0.01)
    gate.passed(BEFORE - 0.01)
    bad = BEFORE + 1.0 + noise(8, 0.01)
    assert not gate.test(bad, bad - 0.1 + noise(8, 0.01, seed=2)).vetoed
    assert gate.test(bad, bad + 0.01 + noise(8, 0.001, seed=3)).vetoed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_numbers_are_vetoed(bad: float) -> None:
    gate = Gate(GateConfig())
    after = BEFORE.clone()
    after[3] = bad
    assert gate.test(BEFORE, after).vetoed
    assert gate.test(BEFORE, torch.full_like(BEFORE, bad)).vetoed
    assert not gate.test(BEFORE, BEFORE - 0.01).vetoed


@pytest.mark.parametrize("tail", ["normal", "heavy", "unchanged for most"])
@pytest.mark.parametrize("n", [40, 200])
def test_harmless_steps_are_vetoed_at_no_more_than_the_rate(tail: str, n: int) -> None:
    """The worst harmless step changes the mean by exactly the tolerance; 4,000 of them at 5 %."""
    generator = torch.Generator().manual_seed(n)
    rate, vetoes = 0.05, 0
    for _ in range(4_000):
        change = torch.randn(n, generator=generator)
        if tail == "heavy":
            change = change / torch.rand(n, generator=generator).clamp_min(0.05)
        if tail == "unchanged for most":
            change = change * (torch.rand(n, generator=generator) < 0.3)
        gate = Gate(GateConfig(rate=rate, tolerance=0.02, decline=0.02))
        vetoes += gate.test(torch.zeros(n), 0.02 + 0.1 * change).vetoed
    assert vetoes / 4_000 <= rate + 3 * (rate / 4_000) ** 0.5


@pytest.mark.parametrize("forget", [False, True])
def test_the_best_outlives_a_restart_and_not_a_new_probe_set(forget: bool) -> None:
    gate, again = Gate(GateConfig()), Gate(GateConfig())
    gate.passed(BEFORE - 1)
    if forget:
        gate.reset()
    again.load_state(gate.state(), CPU)
    for one in (gate, again):
        assert one.test(BEFORE, BEFORE + noise(8, 1e-4).abs()).vetoed is not forget


def test_finite_means_every_number() -> None:
    assert finite(torch.ones(2), torch.zeros(()), torch.tensor([3]))
    assert not finite(torch.ones(2), torch.tensor([1.0, math.nan]))
    assert not finite(torch.tensor(-math.inf))


def declining(policy: DeclinePolicy, *, drift: bool = False) -> list[GateReport]:
    """Ten steps of small harm each; what is vetoed is undone."""
    gate, losses, reports = Gate(GateConfig(tolerance=0.02, decline=0.05, decline_policy=policy)), BEFORE, []
    for step in range(10):
        after = losses + 0.015 + noise(8, 0.001, seed=step)
        reports.append(gate.test(losses, after, drift=drift))
        if not reports[-1].vetoed:
            gate.passed(after)
            losses = after
    return reports


def test_the_alarm_of_a_decline_is_always_on_and_the_policy_says_what_follows() -> None:
    vetoed, rolled_back, alarmed = (declining(policy) for policy in DeclinePolicy)
    assert [report.declined for report in vetoed] == [False] * 3 + [True] * 7
    assert [report.vetoed for report in vetoed] == [False] * 3 + [True] * 7
    assert not any(report.rolled_back for report in vetoed + alarmed)
    assert [report.rolled_back for report in rolled_back] == [False] * 3 + [True] * 7
    assert [report.declined for report in alarmed] == [False] * 3 + [True] * 7
    assert not any(report.vetoed for report in alarmed)


def test_under_drift_a_decline_raises_its_alarm_and_nothing_else() -> None:
    reports = declining(DeclinePolicy.ROLLBACK, drift=True)
    assert any(report.declined for report in reports)
    assert not any(report.vetoed or report.rolled_back for report in reports)


@pytest.mark.parametrize(("harm", "usually", "in_drift"), [(0.01, False, False), (0.3, True, False), (0.7, True, True)])
def test_in_drift_a_step_may_hurt_more_and_not_without_bound(harm: float, usually: bool, in_drift: bool) -> None:
    after = BEFORE + harm + noise(8, 0.02)
    vetoed = [Gate(GateConfig()).test(BEFORE, after, drift=drift).vetoed for drift in (False, True)]
    assert vetoed == [usually, in_drift]


def test_passing_says_whether_the_model_is_the_best_so_far() -> None:
    gate = Gate(GateConfig())
    assert gate.passed(BEFORE)
    assert not gate.passed(BEFORE + 0.1)
    assert gate.passed(BEFORE - 0.1)


def seen(losses: Tensor, *, turns: int = 4, **config: Any) -> Gate:
    """A gate that has let a model with these losses pass."""
    gate = Gate(GateConfig(turns=turns, **config))
    gate.test(losses, losses)
    gate.passed(losses)
    return gate


def test_glances_go_through_all_samples_in_turn() -> None:
    gate = seen(torch.zeros(240), turns=4)
    looked = []
    for _ in range(4):
        rows = gate.rows(240)
        assert rows is not None
        looked += rows.tolist()
        assert gate.glance(rows, torch.zeros(len(rows))) is not None
    assert looked == list(range(240))


@pytest.mark.parametrize(
    ("rise", "passes"), [(0.0, True), (-1.0, True), (0.019, True), (0.021, False), (math.inf, False), (math.nan, False)]
)
def test_a_glance_lets_pass_what_has_not_risen_beyond_the_tolerance(rise: float, passes: bool) -> None:
    gate = seen(torch.ones(200), tolerance=0.02, decline=10.0)
    rows = gate.rows(200)
    assert rows is not None
    report = gate.glance(rows, torch.full((50,), 1.0 + rise))
    assert (report is not None) is passes
    if report is not None:
        assert (report.vetoed, report.statistic) == (False, None)
        assert report.harm == pytest.approx(rise, abs=1e-6)


def test_what_a_glance_does_not_let_pass_leaves_no_trace() -> None:
    gate = seen(torch.ones(200))
    rows = gate.rows(200)
    before = gate.state()
    assert rows is not None
    assert gate.glance(rows, torch.full((50,), 2.0)) is None
    assert gate.state().values == before.values
    assert all(torch.equal(tensor, before.tensors[name]) for name, tensor in gate.state().tensors.items())


def test_small_harm_adds_up_over_glances_until_a_test_is_called_for() -> None:
    """Each rise is within the tolerance; together they are a decline."""
    gate = seen(torch.ones(200), tolerance=0.02, decline=0.05)
    passed = 0
    for number in range(1, 40):
        rows = gate.rows(200)
        assert rows is not None
        if gate.glance(rows, torch.full((50,), 1.0 + 0.004 * number)) is None:
            break
        passed += 1
    assert 11 <= passed <= 15  # that of all, two steps ago on average, is then 0.05


@pytest.mark.parametrize("unknown", ["fresh", "reset", "forgotten", "all", "few"])
def test_without_anything_to_compare_with_all_are_tested(unknown: str) -> None:
    gate = Gate(GateConfig()) if unknown == "fresh" else seen(torch.ones(200), turns=1 if unknown == "all" else 4)
    if unknown == "reset":
        gate.reset()
    if unknown == "forgotten":
        gate.forget()
    assert gate.rows(50 if unknown == "few" else 200) is None


def test_a_restart_goes_on_glancing_where_it_was() -> None:
    gate, again = seen(torch.ones(200)), Gate(GateConfig())
    rows = gate.rows(200)
    assert rows is not None
    gate.glance(rows, torch.full((50,), 1.01))
    again.load_state(gate.state(), CPU)
    for one in (gate, again):
        rows = one.rows(200)
        assert rows is not None
        assert rows.tolist() == list(range(50, 100))
    assert gate.glance(rows, torch.full((50,), 1.005)) == again.glance(rows, torch.full((50,), 1.005))
