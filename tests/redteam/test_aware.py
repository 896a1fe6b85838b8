"""Who knows the guard passes it, and pays for that with the harm it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from weir.bench.guards import GUARDS
from weir.bench.terms import PRESETS, burned_in, material
from weir.bench.trial import Bench
from weir.core import Engine
from weir.core.calibration import Calibration, Scores
from weir.core.evidence import Evidence, View
from weir.core.familiarity import Familiarity
from weir.errors import InvalidSetting
from weir.redteam import Accumulative, Aware, Insight, Observed, ThreatModel, Trigger
from weir.redteam.aware import Climb, Sight, outputs
from weir.types import Batch, EvidenceSet, SampleRef, Step

THREAT = ThreatModel(epsilon=0.3)


@dataclass(frozen=True)
class Duel:
    """A guarded learner after some honest steps, the evidence of its guard, and the attacker's samples."""

    engine: Engine
    calibration: Calibration
    matrix: Callable[[Tensor, Tensor], Tensor]
    insight: Insight
    trigger: Trigger
    ammunition: Batch

    @property
    def model(self) -> nn.Module:
        return self.engine.network.module

    def scores(self, x: Tensor, y: Tensor) -> Scores:
        """What the guard says of samples."""
        return self.calibration.score(self.calibration.standardise(self.matrix(x, y)), y)

    def statistic(self, x: Tensor, y: Tensor) -> float:
        """What it says of them as one step."""
        return float(self.calibration.group_statistics(self.scores(x, y).normal.mean(0)[None], [Counter(y.tolist())]))

    def goal(self, attack: Climb, x: Tensor, y: Tensor, moved: Tensor) -> float:
        """How well moved samples do the attack's work."""
        return float(attack.objective(deepcopy(self.model), x, y)(moved).detach())


@pytest.fixture(scope="module")
def duel() -> Duel:
    terms = PRESETS["digits"]
    given, burn = material(terms, 0, None)
    bench = Bench(terms, given, burned_in(terms, given, burn, 0, None), 0)
    engine = bench.engine(GUARDS["weir"])
    steps = []
    for number in range(7):
        batch = given.honest.select(range(25 * number, 25 * number + 25))
        refs = [SampleRef(f"b{number}", index) for index in range(25)]
        steps.append(Step(number, batch.x, batch.y, refs, ["ann"] * 25))
    for step in steps[:-1]:
        engine.process(step)
    guard = engine._guard
    snapshot = guard._snapshots.reference()
    assert snapshot is not None
    calibration = guard._calibrated(snapshot, steps[-1], engine.updates)

    def matrix(x: Tensor, y: Tensor) -> Tensor:
        measure = guard._measurement
        return measure.matrix(x, y, measure.outputs(x), snapshot, calibration.trusted.influence)

    insight = Insight.of(bench.anchor, given.validation, given.ammunition)
    trigger = Trigger(THREAT, given.validation)
    return Duel(engine, calibration, matrix, insight, trigger, given.ammunition)


def test_the_evidence_is_the_guards_but_for_the_samples_it_trusts(duel: Duel) -> None:
    own, x, y = duel.insight.own, duel.ammunition.x[:20], duel.ammunition.y[:20]
    network, task = duel.engine.network, duel.engine.task
    theirs = Evidence(network, task, EvidenceSet.ALL)
    with torch.no_grad():
        influence = theirs.influence(network.outputs(own.x), own.y)
        historical = network.outputs(x, duel.insight.historical)
        expected = theirs.matrix(View(x, y, network.outputs(x), historical, influence, Familiarity(own.x)))
        found = Sight(duel.model, duel.insight.historical, own).evidence(x, y)
    assert found.shape == (20, len(theirs.names))
    torch.testing.assert_close(found, expected)


def test_features_are_the_input_of_the_layer_that_gives_the_logits() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    x = torch.rand(5, 3)
    found = outputs(model, x)
    assert found.features is not None
    torch.testing.assert_close(model[2](found.features), found.logits)
    assert outputs(nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Flatten()), x).features is None
    assert not any(layer._forward_pre_hooks for layer in model)


@pytest.mark.parametrize("phase", ["accumulative", "trigger"])
def test_a_growing_penalty_lowers_the_guards_score_and_the_attacks_success(duel: Duel, phase: str) -> None:
    strike = Batch(duel.ammunition.x[:100], duel.ammunition.y[:100])
    attack: Climb = duel.trigger if phase == "trigger" else Accumulative(duel.trigger, strike)
    x, y = (strike.x, strike.y) if phase == "trigger" else (duel.ammunition.x[100:], duel.ammunition.y[100:])
    crafted = [THREAT.craft(Aware(attack, duel.insight, penalty), duel.model, x, y) for penalty in (0, 0.01, 1)]
    scores = [float(duel.scores(moved, y).score.mean()) for moved in crafted]
    goals = [duel.goal(attack, x, y, moved) for moved in crafted]
    statistics = [duel.statistic(moved, y) for moved in crafted]
    assert scores[0] > scores[1] + 0.5
    assert scores[1] > scores[2] + 0.3
    assert goals[0] > goals[1] > goals[2]
    assert statistics[0] > statistics[1] > statistics[2] > duel.statistic(x, y)
    assert statistics[2] < 0.7 * statistics[0]


def test_without_a_penalty_it_is_the_attack_itself(duel: Duel) -> None:
    x, y = duel.ammunition.x[:20], duel.ammunition.y[:20]
    aware = Aware(duel.trigger, duel.insight, 0.0, duel.trigger.steps)
    assert torch.equal(THREAT.craft(aware, duel.model, x, y), THREAT.craft(duel.trigger, duel.model, x, y))


def test_scores_that_a_reviewer_sees_are_as_good_as_crafted_samples(duel: Duel) -> None:
    x, y = duel.ammunition.x[:100], duel.ammunition.y[:100]
    plain = THREAT.craft(duel.trigger, duel.model, x, y)
    seen = Batch(torch.cat([plain, duel.insight.own.x]), torch.cat([y, duel.insight.own.y]))
    observed = Observed(seen, duel.scores(seen.x, seen.y).score)
    insight = Insight(duel.insight.historical, duel.insight.own, observed)
    moved = THREAT.craft(Aware(duel.trigger, insight, 0.1), duel.model, x, y)
    assert float(duel.scores(moved, y).score.mean()) < float(duel.scores(plain, y).score.mean()) - 0.5
    assert duel.statistic(moved, y) < duel.statistic(plain, y)
    assert duel.goal(duel.trigger, x, y, moved) > duel.goal(duel.trigger, x, y, x)


def test_a_penalty_below_nought_is_refused(duel: Duel) -> None:
    with pytest.raises(InvalidSetting, match="penalty"):
        Aware(duel.trigger, duel.insight, -1.0)
