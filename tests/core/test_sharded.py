"""An engine whose steps are shared out among ranks decides and learns as one that has them alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from tests.core.conftest import GUARD, NOISY, World
from tests.ranks import run

from weir.core import CorrectionConfig, Engine, GateConfig, GuardConfig, LearnerConfig, SnapshotConfig
from weir.core.group import Group
from weir.core.ranks import ALONE, Ranks
from weir.errors import InvalidSetting
from weir.redteam import Cocktail
from weir.types import GuardMode, StepReport, Verdict

TOLERANCE = 1e-5  # of weights and scores: what is added up in another order differs by float32's rounding
SIZES = (100, 1, 7, 100, 2, 33)
PLANS: dict[str, dict[str, Any]] = {
    "default": {},
    "correction": {
        "guard": replace(GUARD, sample_rate=0.05),
        "correction": CorrectionConfig(enabled=True, epsilon=0.2),
        "snapshots": SnapshotConfig(lag=2),
    },
    "partial steps": {"step_size": 100, "learner": LearnerConfig(lr=0.05, momentum=0.9, weight_decay=0.01)},
    "published": {"guard": GuardConfig(mode=GuardMode.DSC, dsc_base=0.001, dsc_slope=0.0)},
    "from rest": {"gate": GateConfig(tolerance=0.0, rate=0.4), "learner": LearnerConfig(lr=0.2, momentum=0.9)},
    "vetoed": {"gate": GateConfig(tolerance=0.0, rate=0.4), "learner": LearnerConfig(lr=0.5, momentum=0.9)},
}


class Course(NamedTuple):
    """What a run came to."""

    reports: list[StepReport]
    weights: list[float]


def course(ranks: Ranks, plan: str, vaccinated: bool = False) -> Course:
    """Steps of several sizes, with wrong labels among them; only rank 0 has their x."""
    world = World()
    started = world.engine(**PLANS[plan])
    engine = Engine(world.recipe, started.config, poisoner=Cocktail() if vaccinated else None, ranks=ranks)
    engine.load_state(started.state())
    reports = []
    for number, n in enumerate(SIZES, 1):
        step = world.step(number, n=n, flipped=n // 5)
        step = step if ranks.rank == 0 else replace(step, x=step.x.to("meta"))
        reports.append(replace(engine.process(step), seconds={}))
    return Course(reports, torch.cat([tensor.flatten() for tensor in engine.weights().values()]).tolist())


def courses(group: Group) -> dict[str, Course]:
    """Every plan, once in this group."""
    return {plan: course(group, plan) for plan in PLANS}


@pytest.fixture(scope="module")
def of_two() -> list[dict[str, Course]]:
    return run(2, courses)


@pytest.mark.parametrize("plan", PLANS)
def test_two_ranks_are_equal_to_the_last_bit(of_two: list[dict[str, Course]], plan: str) -> None:
    zero, one = of_two[0][plan], of_two[1][plan]
    assert zero.reports == one.reports
    assert zero.weights == one.weights


@pytest.mark.parametrize("plan", PLANS)
def test_two_ranks_decide_and_learn_as_one_does(of_two: list[dict[str, Course]], plan: str) -> None:
    two, alone = of_two[0][plan], course(ALONE, plan)
    for ours, theirs in zip(two.reports, alone.reports, strict=True):
        assert [v.verdict for v in ours.verdicts] == [v.verdict for v in theirs.verdicts]
        assert [v.reason for v in ours.verdicts] == [v.reason for v in theirs.verdicts]
        assert ours.vetoed == theirs.vetoed
        assert ours.loss == pytest.approx(theirs.loss, abs=TOLERANCE)
        assert ours.progressive_accuracy == theirs.progressive_accuracy
        assert ours.probe_accuracy == theirs.probe_accuracy
    assert two.weights == pytest.approx(alone.weights, abs=TOLERANCE)


def test_the_plans_show_what_they_are_for(of_two: list[dict[str, Course]]) -> None:
    of_rank = of_two[0]
    held = [report.counts[Verdict.QUARANTINE] for report in of_rank["default"].reports]
    assert 0 < sum(held) < sum(SIZES)
    assert sum(report.counts[Verdict.CORRECT] for report in of_rank["correction"].reports) > 0
    assert sum(report.counts[Verdict.CORRECT] for report in of_rank["published"].reports) > 0
    assert any(report.gate and report.gate.rested for report in of_rank["from rest"].reports)
    assert any(report.vetoed for report in of_rank["vetoed"].reports)
    assert not all(report.vetoed for report in of_rank["vetoed"].reports)


def odd(group: Group) -> tuple[list[str], Course]:
    """Batch norm that learns is refused; a rank that cannot score its rows stops nobody; the vaccine is agreed on."""
    said = []
    try:
        Engine(NOISY, World().config(learner=LearnerConfig(freeze_norm=False)), ranks=group)
    except InvalidSetting as error:
        said.append(str(error))
    Engine(NOISY, World().config(), ranks=group)
    return said, course(group, "default", vaccinated=True)


def test_batch_norm_that_learns_is_refused_and_the_vaccine_is_the_same_everywhere() -> None:
    (said, zero), (_, one) = run(2, odd)
    assert said == ["freeze_norm: expected true on 2 ranks, or a model without batch norm, got False"]
    assert zero.reports == one.reports
    assert zero.reports[-1].vaccine_age is not None
    alone = course(ALONE, "default", vaccinated=True)
    verdicts = [[v.verdict for v in report.verdicts] for report in alone.reports]
    assert [[v.verdict for v in report.verdicts] for report in zero.reports] == verdicts
