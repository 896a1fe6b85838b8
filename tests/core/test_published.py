"""The published rule: one decision for all samples, on their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from weir.core.config import CorrectionConfig, GuardConfig
from weir.core.correction import Correction
from weir.core.network import Network
from weir.core.published import judge_mean
from weir.core.task import Classification
from weir.types import GuardMode, Reason, Verdict

if TYPE_CHECKING:
    from tests.core.conftest import World


class Rule:
    """The rule with a discrepancy that falls by a given amount at every look."""

    def __init__(self, world: World, *, fall: float) -> None:
        network = Network(world.recipe)
        self.x, self.y = world.samples(6, seed=1)
        self.fall, self.looks = fall, 0
        config = CorrectionConfig(epsilon=0.1, steps=5)
        self.correction = Correction(network, Classification(), config)
        self.start = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])  # mean 1

    def discrepancy(self, x: Tensor) -> Tensor:
        assert len(x) == 6
        now = self.start - self.fall * self.looks
        self.looks += 1
        return now


def test_a_mean_at_the_threshold_is_accepted_though_single_samples_are_far_above(world: World) -> None:
    rule = Rule(world, fall=0.0)
    judged = judge_mean(rule.x, rule.y, rule.discrepancy, 1.0, rule.correction)
    assert {(v.verdict, v.reason, v.score, v.threshold) for v in judged.verdicts} == {
        (Verdict.ACCEPT, Reason.CLEAN, 1.0, 1.0)
    }
    assert [v.discrepancy for v in judged.verdicts] == rule.start.tolist()
    assert judged.x is rule.x
    assert (judged.alarms, rule.looks) == ((), 1)


@pytest.mark.parametrize(("fall", "moves"), [(0.5, 1), (0.2, 3), (0.0, 5)])
def test_all_samples_move_until_the_mean_is_at_the_threshold_or_the_steps_are_spent(
    world: World, fall: float, moves: int
) -> None:
    rule = Rule(world, fall=fall)
    judged = judge_mean(rule.x, rule.y, rule.discrepancy, 0.5, rule.correction)
    assert {(v.verdict, v.reason) for v in judged.verdicts} == {(Verdict.CORRECT, Reason.DISCREPANCY)}
    assert judged.alarms == (Reason.DISCREPANCY,)
    assert (judged.step_discrepancy, judged.step_discrepancy_threshold) == (1.0, 0.5)
    furthest = (judged.x - rule.x).abs().amax(1)
    torch.testing.assert_close(furthest, torch.full((6,), moves * 0.1 / 5), rtol=1e-3, atol=1e-6)
    assert bool(judged.admitted.all())  # whatever is left of the suspicion, all are learned


def test_the_fixed_schedule_needs_no_probe_set_and_grows_with_the_step(world: World) -> None:
    engine = world.engine(probe=0, guard=GuardConfig(mode=GuardMode.DSC))
    assert engine.unarmed_because is None
    for report in world.run(engine, 1, 3):
        assert report.armed
        assert report.step_discrepancy_threshold == pytest.approx(0.5 + 0.02 * report.step)
        assert report.sample_threshold is None
        mean = sum(v.discrepancy or 0.0 for v in report.verdicts) / 20
        assert report.step_discrepancy == pytest.approx(mean, rel=1e-5)
        assert {v.score for v in report.verdicts} == {report.step_discrepancy}
    assert world.run(engine, 500, 500)[0].step_discrepancy_threshold == pytest.approx(10.5)


def test_a_schedule_of_zero_corrects_whatever_has_moved_at_all(world: World) -> None:
    engine = world.engine(probe=0, guard=GuardConfig(mode=GuardMode.DSC, dsc_base=0.0, dsc_slope=0.0))
    (report,) = world.run(engine, 1, 1)
    assert report.step_discrepancy_threshold == 0.0
    assert report.counts == {Verdict.CORRECT: 20}
    assert report.updated


def test_without_a_base_the_threshold_is_calibrated_and_needs_a_probe_set(world: World) -> None:
    guard = GuardConfig(mode=GuardMode.DSC, dsc_base=None)
    assert world.engine(probe=0, guard=guard).unarmed_because == "there is no probe set"
    engine = world.engine(guard=guard)
    small, large = (engine.process(world.step(n, n=size)) for n, size in ((1, 5), (2, 200)))
    assert small.step_discrepancy_threshold is not None
    assert large.step_discrepancy_threshold is not None
    assert 0 < large.step_discrepancy_threshold < small.step_discrepancy_threshold
