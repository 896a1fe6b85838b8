"""Verdicts: who is suspected for what, what each mode does about it, and what is said while nothing is armed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from weir.core import CorrectionConfig, Engine, GateConfig, GuardConfig, LearnerConfig, SnapshotConfig
from weir.core import guard as module
from weir.core.calibration import Calibration, Scores, group_threshold
from weir.core.consensus import Common, Consensus
from weir.core.evidence import View
from weir.core.measurement import Measurement
from weir.core.roster import Roster
from weir.core.suspicion import Suspicion
from weir.core.vaccine import Poisoner
from weir.errors import InvalidProbe
from weir.redteam import Cocktail
from weir.types import GuardMode, Reason, SampleVerdict, Standing, Step, StepReport, Verdict

if TYPE_CHECKING:
    from tests.core.conftest import World

HOLD = CorrectionConfig(enabled=False)
CALM = {"sample_rate": 0.01, "step_rate": 1e-6, "producer_rate": 1e-6}
UNARMED = SampleVerdict(Verdict.ACCEPT, Reason.UNARMED)


def guard(**tunables: Any) -> GuardConfig:
    return GuardConfig(**(CALM | tunables))


def mixed(number: int, *steps: Step) -> Step:
    """The samples of several steps as one."""
    return Step(
        number,
        torch.cat([step.x for step in steps]),
        torch.cat([step.y for step in steps]),
        [ref for step in steps for ref in step.refs],
        [producer for step in steps for producer in step.producers],
    )


def thresholds(report: StepReport) -> set[float | None]:
    return {
        report.step_discrepancy_threshold, report.step_threshold, report.sample_threshold, report.step_score,
        report.step_discrepancy, *(v.threshold for v in report.verdicts), *(v.score for v in report.verdicts),
        *(v.pvalue for v in report.verdicts), *(v.discrepancy for v in report.verdicts),
    }  # fmt: skip


def test_flipped_labels_are_held_and_honest_samples_are_not(world: World) -> None:
    (report,) = world.run(world.engine(correction=HOLD), 1, 1, n=60, flipped=4)
    held = [row for row, v in enumerate(report.verdicts) if v.verdict is Verdict.QUARANTINE]
    assert sum(row < 4 for row in held) >= 3
    assert sum(row >= 4 for row in held) <= 2
    for row in held:
        verdict = report.verdicts[row]
        assert verdict.reason is Reason.SAMPLE
        assert verdict.score is not None
        assert verdict.threshold is not None
        assert verdict.pvalue is not None
        assert verdict.score > verdict.threshold
        assert verdict.pvalue <= 0.01
    assert report.updated
    assert report.armed


def test_the_sample_rate_holds_through_the_whole_guard(world: World) -> None:
    """12,000 clean samples against eight probe sets, in steps that change no weight."""
    suspected = 0
    for seed in range(8):
        engine = world.engine(probe=0, learner=LearnerConfig(lr=0.0), correction=HOLD, guard=guard(sample_rate=0.05))
        engine.set_probe(*world.samples(420, seed=100 + seed), created_at=0, source="tests")
        for number in range(3):
            report = engine.process(world.step(number, n=500, seed=1_000 + 10 * seed + number))
            assert not report.alarms
            suspected += report.counts[Verdict.QUARANTINE]
    # One probe set's rate has a standard deviation of 1.9 points (126 samples), the mean of eight 0.7.
    assert suspected / 12_000 == pytest.approx(0.05, abs=0.022)


@pytest.mark.parametrize("missing", ["probe set", "snapshot", "mode"])
def test_unarmed_is_said_and_gives_none_and_never_zero(world: World, missing: str) -> None:
    match missing:
        case "probe set":
            engine, says = world.engine(probe=0), "there is no probe set"
        case "snapshot":
            engine = Engine(world.recipe, world.config())
            engine.set_probe(*world.samples(420, seed=11), created_at=0, source="tests")
            says = "there is no historical snapshot yet"
        case _:
            engine, says = world.engine(guard=guard(mode=GuardMode.OFF)), "the mode is off"
    assert engine.unarmed_because == says
    (report,) = world.run(engine, 1, 1, flipped=5)
    assert not report.armed
    assert report.verdicts == (UNARMED,) * 20
    assert thresholds(report) == {None}
    assert report.updated
    assert (report.alarms, report.gate is None) == ((), missing != "snapshot")
    assert engine.sample_threshold is None


def test_a_ring_without_an_anchor_arms_itself_when_it_is_as_old_as_the_lag(world: World) -> None:
    engine = Engine(world.recipe, world.config(snapshots=SnapshotConfig(lag=2), gate=GateConfig(enabled=False)))
    engine.set_probe(*world.samples(420, seed=11), created_at=0, source="tests")
    armed = [report.verdicts[0].reason is not Reason.UNARMED for report in world.run(engine, 1, 5)]
    assert armed == [False, False, False, True, True]


def test_a_threshold_of_exactly_zero_is_in_force(world: World) -> None:
    """Every trusted sample alike: all evidence is constant, so the score's threshold is 0.0."""
    engine = world.engine(probe=0, learner=LearnerConfig(lr=0.0), correction=HOLD)
    engine.network.load({name: torch.zeros_like(tensor) for name, tensor in engine.weights().items()})
    engine.set_anchor()
    y = torch.arange(420) % 3
    engine.set_probe(torch.full((420, 6), 0.5), y, created_at=0, source="tests")
    x = torch.full((3, 6), 0.5)
    x[2, 0] = 0.4
    report = engine.process(world.of(1, x, torch.arange(3)))
    assert report.sample_threshold == 0.0
    assert report.sample_threshold is not None
    assert engine.sample_threshold is not None
    assert [v.score == 0.0 for v in report.verdicts] == [True, True, False]
    assert [v.verdict for v in report.verdicts] == [Verdict.ACCEPT, Verdict.ACCEPT, Verdict.QUARANTINE]
    assert {v.threshold for v in report.verdicts} == {0.0}


def test_observe_scores_as_weir_does_and_never_acts(world: World) -> None:
    observing, acting, off = (
        world.engine(guard=guard(mode=mode)) for mode in (GuardMode.OBSERVE, GuardMode.WEIR, GuardMode.OFF)
    )
    step = world.step(1, n=40, flipped=30)
    seen, acted = observing.process(step), acting.process(step)
    off.process(step)
    assert not seen.armed
    assert observing.unarmed_because == "the mode is observe"
    assert [replace(v, verdict=Verdict.ACCEPT) for v in acted.verdicts if v.reason is not Reason.VETO] == [
        s for s, a in zip(seen.verdicts, acted.verdicts, strict=True) if a.reason is not Reason.VETO
    ]
    assert seen.counts == {Verdict.ACCEPT: 40}
    assert {v.reason for v in seen.verdicts} - {Reason.CLEAN}
    assert acted.counts[Verdict.ACCEPT] < 40
    assert seen.gate is None
    for name in ("alarms", "step_score", "step_threshold", "sample_threshold", "step_discrepancy"):
        assert getattr(seen, name) == getattr(acted, name)
    weights = observing.weights()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in off.weights().items())


def test_a_suspect_is_corrected_until_it_is_no_longer_one(world: World) -> None:
    config = CorrectionConfig(enabled=True, epsilon=0.3, steps=10)
    engine = world.engine(correction=config, gate=GateConfig(enabled=False))
    holding = world.engine(correction=HOLD, gate=GateConfig(enabled=False))
    step = world.step(1, n=60, flipped=4)
    corrected, held = engine.process(step), holding.process(step)
    suspects = {row for row, v in enumerate(held.verdicts) if v.verdict is Verdict.QUARANTINE}
    fixed = {row for row, v in enumerate(corrected.verdicts) if v.verdict is Verdict.CORRECT}
    assert fixed
    assert fixed <= suspects
    for row in fixed:  # what is told is why it was suspected, as it came
        assert replace(corrected.verdicts[row], verdict=Verdict.QUARANTINE) == held.verdicts[row]
    assert corrected.updated


def test_a_ball_too_small_corrects_nothing(world: World) -> None:
    engine = world.engine(correction=CorrectionConfig(enabled=True, epsilon=1e-4), gate=GateConfig(enabled=False))
    (report,) = world.run(engine, 1, 1, n=60, flipped=4)
    assert report.counts[Verdict.CORRECT] == 0
    assert report.counts[Verdict.QUARANTINE] >= 3


def test_a_hostile_producer_is_held_whole_and_its_neighbours_are_not(world: World) -> None:
    engine = world.engine(correction=HOLD, guard=guard(producer_rate=1e-4, step_rate=1e-4, producer_window=30))
    for number in range(3):
        evil = world.step(10 + number, n=15, flipped=15, producer="eve")
        report = engine.process(mixed(number, world.step(number, n=30), evil))
    assert report.alarmed_producers == ("eve",)
    assert Reason.PRODUCER in report.alarms
    theirs = {(v.verdict, v.reason) for v, p in zip(report.verdicts, report.producers, strict=True) if p == "eve"}
    assert theirs == {(Verdict.QUARANTINE, Reason.PRODUCER)}
    ours = [v for v, p in zip(report.verdicts, report.producers, strict=True) if p == "ann"]
    assert sum(v.verdict is Verdict.QUARANTINE for v in ours) <= 2
    assert {v.reason for v in ours} <= {Reason.CLEAN, Reason.SAMPLE}
    standing = {record.producer: record.standing for record in engine.producers()}
    assert standing == {"ann": Standing.GOOD, "eve": Standing.SUSPENDED}


def test_a_step_alarm_that_no_producer_explains_holds_the_step(world: World) -> None:
    engine = world.engine(guard=guard(step_rate=1e-3))
    x, y = world.samples(90, seed=5)
    y[:60] = (y[:60] + 1) % 3
    names = [f"p{row}" for row in range(90)]
    report = engine.process(replace(world.of(1, x, y), producers=names))
    assert report.alarms == (Reason.STEP,)
    assert report.alarmed_producers == ()
    assert report.step_score is not None
    assert report.step_threshold is not None
    assert report.step_score > report.step_threshold
    assert {(v.verdict, v.reason) for v in report.verdicts} == {(Verdict.QUARANTINE, Reason.STEP)}
    assert not report.updated
    assert report.loss is None
    assert engine.updates == 0


class Watch:
    """Which trusted samples were measured at each step of a stream, by turns within it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[list[set[int]]] = []
        measure = Measurement.measure

        def watched(measurement: Measurement, rows: Iterable[int] | None = None) -> None:
            self.steps[-1].append(set(range(measurement.size) if rows is None else rows))
            measure(measurement, rows)

        monkeypatch.setattr(Measurement, "measure", watched)

    def process(self, engine: Engine, step: Step) -> StepReport:
        """Process one step and note what it measured."""
        self.steps.append([])
        return engine.process(step)


def test_each_trusted_sample_is_measured_once_in_so_many_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, engine = Watch(monkeypatch), world.engine(guard=guard(refresh=4), learner=LearnerConfig(lr=1e-4))
    for number in range(1, 10):
        watch.process(engine, world.step(number))
    first, *rest = watch.steps
    assert first == [set(range(294))]
    for four in (rest[:4], rest[4:]):
        assert set().union(*(rows for step in four for rows in step)) == set(range(294))
    assert all(len(step) == 1 and 74 <= len(step[0]) <= 74 + 30 for step in rest)  # and the highest, out of turn


def test_all_are_measured_when_some_show_that_the_model_moved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, engine = Watch(monkeypatch), world.engine(guard=guard(refresh=98), learner=LearnerConfig(lr=0.5))
    for number in range(1, 31):
        watch.process(engine, world.step(number))
    everything = [set().union(*step) == set(range(294)) for step in watch.steps[1:]]
    assert 10 < sum(everything) < 29


def mislabelled(world: World, number: int, wrong: int) -> Step:
    """Sixty samples, each of another producer, the first of them mislabelled."""
    x, y = world.samples(60, seed=5)
    y[:wrong] = (y[:wrong] + 1) % 3
    return replace(world.of(number, x, y), producers=[f"p{row}" for row in range(60)])


def eases(monkeypatch: pytest.MonkeyPatch, eased: float) -> None:
    """Whatever is measured again scores so much less than it did."""
    monkeypatch.setattr(Calibration, "eased", lambda calibration, *_: torch.full((calibration.columns,), eased))


@pytest.mark.parametrize(
    ("above", "eased", "more"),
    [(-0.1, 0.05, True), (-0.1, 0.0, False), (-0.1, -0.05, False), (0.1, -0.05, True), (0.1, 0.0, True)],
)
def test_all_that_is_trusted_is_measured_where_that_may_raise_an_alarm_or_end_it(
    world: World, monkeypatch: pytest.MonkeyPatch, above: float, eased: float, more: bool
) -> None:
    """A tenth from the bound: the rate is chosen for it, by what the step scores at another. An alarm always has it."""
    monkeypatch.setattr(module, "STALE", math.inf)  # which has more measured, whatever the step
    eases(monkeypatch, eased)

    def run(rate: float) -> tuple[StepReport, list[set[int]]]:
        watch, engine = Watch(monkeypatch), world.engine(guard=guard(step_rate=rate), learner=LearnerConfig(lr=1e-3))
        for number in range(1, 6):
            watch.process(engine, world.step(number))
        return watch.process(engine, mislabelled(world, 6, 12)), watch.steps[-1]

    normal, (report, _) = NormalDist(), run(1e-6)
    assert report.step_score is not None
    assert report.step_threshold is not None
    columns = 1e-6 / (1 - normal.cdf(report.step_threshold))
    report, measured = run(columns * (1 - normal.cdf(report.step_score - above)))
    assert report.alarms == ((Reason.STEP,) if above > 0 else ())
    assert len(measured) == (1 + module.SHARES if more else 1)
    assert (set().union(*measured) == set(range(294))) == more


def test_nothing_is_measured_again_with_the_same_weights(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, engine = Watch(monkeypatch), world.engine(guard=guard(step_rate=1e-3), learner=LearnerConfig(lr=1e-4))
    for number in range(1, 6):
        assert watch.process(engine, world.step(number)).alarms == ()
    eases(monkeypatch, -100.0)
    assert not watch.process(engine, mislabelled(world, 6, 60)).updated
    assert len(watch.steps[-1]) == 1 + module.SHARES
    watch.process(engine, world.step(7))
    assert watch.steps[-1] == []


THIRTY = [row % 3 for row in range(30)]  # labels


def by_thirty(columns: int, *means: float) -> Scores:
    """Thirty samples of each mean normal score, nine times as likely under any attack as clean."""
    n = 30 * len(means)
    normal = torch.tensor(means).repeat_interleave(30)[:, None].expand(n, columns)
    return Scores(torch.zeros(n), torch.full((n,), 0.5), torch.ones(n), normal, torch.full((n, 3), 9.0))


def near_the_bound(calibration: Calibration, above: float) -> float:
    """The mean normal score of thirty samples that stand by so much above the bound of a rate of 1e-3, as a z."""
    spread = math.sqrt(1 / 30 + calibration.shared_variance({0: 10, 1: 10, 2: 10}))
    return (group_threshold(1e-3, calibration.columns) + above) * spread


@pytest.mark.parametrize("suspended", [True, False])
@pytest.mark.parametrize(("above", "eased"), [(-0.05, 0.05), (0.05, -0.05)])
def test_what_an_alarm_leaves_of_a_step_is_doubted_as_the_step_is(
    world: World, above: float, eased: float, suspended: bool
) -> None:
    """The step alarms for one producer's sake, that much is certain; the others of it are near the bound themselves."""
    engine = world.engine(guard=guard(step_rate=1e-3, producer_window=30))
    world.run(engine, 1, 2)
    roster = Roster(["eve"] * 30 + [f"p{row}" for row in range(30)], THIRTY * 2)
    judge, calibration = engine._guard, engine._guard._calibration
    assert calibration is not None
    columns, nothing = calibration.columns, Common(torch.empty(0))
    if suspended:
        judge.producers.observe(by_thirty(columns, 5.0, -1.0), roster, calibration)
        assert judge.producers.standing(["eve"]) == {"eve": Standing.SUSPENDED}
    near = by_thirty(columns, 0.0 if suspended else 5.0, near_the_bound(calibration, above))
    judge._eased = torch.full((columns,), eased)
    assert judge._doubtful(near, roster, calibration, nothing)
    judge._eased = torch.zeros(columns)
    assert not judge._doubtful(near, roster, calibration, nothing)


@pytest.mark.parametrize(
    ("before", "of_thirty", "rest", "more"),
    [
        (Standing.GOOD, 10, False, True),
        (Standing.WATCHED, 10, False, False),
        (Standing.WATCHED, 30, False, True),
        (Standing.SUSPENDED, 30, False, False),
        (Standing.WATCHED, 10, True, True),
    ],
)
def test_more_is_measured_before_an_alarm_is_raised_that_is_new_or_holds_a_group(
    world: World, before: Standing, of_thirty: int, rest: bool, more: bool
) -> None:
    engine = world.engine(guard=guard(producer_window=30))
    world.run(engine, 1, 2)
    roster = Roster(["bob"] * 30 + ["eve"] * 30, THIRTY * 2)
    judge, calibration = engine._guard, engine._guard._calibration
    assert calibration is not None
    stands = {"bob": Standing.GOOD, "eve": before}
    assert not judge._grave(Suspicion([Reason.CLEAN] * 60, 0.0, (), frozenset(), rest=False), roster, stands)
    judge.producers.observe(by_thirty(calibration.columns, 0.0, 5.0), roster, calibration)
    reasons = [Reason.CLEAN] * 30 + [Reason.PRODUCER] * of_thirty + [Reason.CLEAN] * (30 - of_thirty)
    suspicion = Suspicion(reasons, 9.0, (Reason.STEP, Reason.PRODUCER), frozenset(), rest=rest)
    assert judge._grave(suspicion, roster, stands) == more


@pytest.mark.parametrize("window", [30, 200])
def test_whom_the_world_has_just_excused_does_not_alarm_for_what_was_before(world: World, window: int) -> None:
    """Its window and its standing are forgotten before the step is observed, and so it is part of what is left."""
    engine = world.engine(guard=guard(step_rate=1e-3, producer_window=window))
    world.run(engine, 1, 2)
    roster = Roster(["bob"] * 30 + ["eve"] * 30, THIRTY * 2)
    judge, calibration = engine._guard, engine._guard._calibration
    assert calibration is not None
    columns, bare = calibration.columns, torch.empty(0)
    judge.producers.observe(by_thirty(columns, 0.0, 9.0), roster, calibration)
    assert judge.producers.standing(["eve"]) == {"eve": Standing.SUSPENDED}
    near = by_thirty(columns, 5.0, near_the_bound(calibration, -0.05))
    judge._eased = torch.full((columns,), 0.05)
    assert not judge._doubtful(near, roster, calibration, Common(bare))  # both alarm, and nothing is left
    assert judge._doubtful(near, roster, calibration, Common(bare, newly=("eve",)))


@pytest.mark.parametrize("newly", [(), ("eve",)])
def test_whom_the_world_has_just_excused_alarms_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, newly: tuple[str, ...]
) -> None:
    """The alarm of one who was suspended may rest on what was known; not if that standing has been forgotten."""
    monkeypatch.setattr(module, "STALE", math.inf)
    eases(monkeypatch, 0.0)
    watch, engine = Watch(monkeypatch), world.engine(guard=guard(step_rate=1e-3), learner=LearnerConfig(lr=1e-3))

    def step(number: int) -> Step:
        return mixed(number, world.step(number), world.step(10 + number, n=30, flipped=30, producer="eve"))

    for number in range(1, 5):
        watch.process(engine, step(number))
    assert engine._guard.producers.standing(["eve"]) == {"eve": Standing.SUSPENDED}
    monkeypatch.setattr(Consensus, "explain", lambda consensus, residual, *_: Common(residual, newly=newly))
    report = watch.process(engine, step(5))
    assert Reason.PRODUCER in report.alarms
    assert len(watch.steps[-1]) == (1 + module.SHARES if newly else 1)


def test_samples_and_what_is_trusted_are_measured_with_the_same_influence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where more is measured within a step: the influence comes of what is trusted."""
    seen: list[Tensor] = []
    whole = Measurement.whole

    def watched(measurement: Measurement, view: View, n: int) -> Tensor:
        assert view.influence is not None
        seen.append(view.influence)
        return whole(measurement, view, n)

    monkeypatch.setattr(Measurement, "whole", watched)
    engine = world.engine(guard=guard(step_rate=1e-3), learner=LearnerConfig(lr=0.05))
    world.run(engine, 1, 5)
    eases(monkeypatch, -100.0)
    seen.clear()
    x, y = world.samples(60, seed=5)
    engine.process(world.of(6, x, (y + 1) % 3))
    calibration = engine._guard._calibration
    assert calibration is not None
    assert calibration.trusted.influence is not None
    assert len(seen) > 1
    assert not torch.equal(seen[0], seen[-1])
    assert torch.equal(seen[-1], calibration.trusted.influence)


def test_nothing_is_calibrated_right_after_a_replacement(world: World) -> None:
    engine = world.engine(guard=guard(refresh=4))
    world.run(engine, 1, 9)
    engine.set_anchor()
    assert engine.sample_threshold is None
    (report,) = world.run(engine, 10, 10)
    assert report.step_discrepancy == 0.0
    engine.set_probe(*world.samples(420, seed=12), created_at=0, source="tests")
    assert engine.sample_threshold is None
    world.run(engine, 11, 11)
    assert engine.sample_threshold is not None


@pytest.mark.parametrize("ring", [{"lag": 2}, {"lag": 6, "every": 3}])
def test_clean_steps_raise_no_alarm_against_a_ring_however_rare_the_refresh(world: World, ring: dict[str, Any]) -> None:
    """The last few updates are small or large: a calibration of a few steps ago says nothing about them."""
    engine = world.engine(
        guard=guard(refresh=10, step_rate=1e-3, producer_rate=1e-3),
        snapshots=SnapshotConfig(**ring),
        learner=LearnerConfig(lr=0.05),
    )
    reports = world.run(engine, 1, 60, n=50)
    assert sum(bool(report.alarms) for report in reports) <= 1
    assert sum(report.counts[Verdict.QUARANTINE] for report in reports) <= 0.03 * 60 * 50


def test_a_mode_set_by_an_admin_outlives_a_restart_until_it_is_set_back(world: World) -> None:
    engine = world.engine()
    engine.set_mode(GuardMode.OBSERVE)
    again = world.engine()
    again.load_state(engine.state())
    assert again.mode is GuardMode.OBSERVE
    again.set_mode(GuardMode.WEIR)
    other = world.engine(guard=guard(mode=GuardMode.OFF))
    other.load_state(again.state())
    assert other.mode is GuardMode.OFF  # back at what is configured, whatever that is now


def test_a_mode_that_the_probe_set_does_not_carry_is_refused(world: World) -> None:
    engine = world.engine(probe=60, guard=guard(mode=GuardMode.OFF))
    for mode in (GuardMode.WEIR, GuardMode.OBSERVE):
        with pytest.raises(InvalidProbe, match="60 samples"):
            engine.set_mode(mode)
        assert engine.mode is GuardMode.OFF
    world.run(engine, 1, 1)


def test_a_state_whose_probe_set_is_too_small_for_the_configuration_is_refused(world: World) -> None:
    state = world.engine(probe=60, guard=guard(sample_rate=0.1)).state()
    with pytest.raises(InvalidProbe, match="99 for thresholds"):
        world.engine().load_state(state)


def test_a_decoy_that_alarms_clears_nobody_else_of_the_step(world: World) -> None:
    """Many producers of one hostile sample each, beside one who is hostile for all to see."""
    engine = world.engine(guard=guard(step_rate=1e-3))
    x, y = world.samples(110, seed=5)
    y[:80] = (y[:80] + 1) % 3
    names = [f"p{row}" for row in range(60)] + ["decoy"] * 20 + [f"q{row}" for row in range(30)]
    report = engine.process(replace(world.of(1, x, y), producers=names))
    assert report.alarmed_producers == ("decoy",)
    assert report.alarms == (Reason.STEP, Reason.PRODUCER)
    assert {v.reason for v, name in zip(report.verdicts, names, strict=True) if name != "decoy"} == {Reason.STEP}
    assert not report.updated


def test_a_step_that_alarms_for_one_producer_condemns_nobody_else(world: World) -> None:
    engine = world.engine(guard=guard(step_rate=1e-3))
    x, y = world.samples(90, seed=5)
    y[:60] = (y[:60] + 1) % 3
    report = engine.process(replace(world.of(1, x, y), producers=["evil"] * 60 + ["good"] * 30))
    assert report.alarmed_producers == ("evil",)
    reasons = {v.reason for v, name in zip(report.verdicts, report.producers, strict=True) if name == "good"}
    assert reasons <= {Reason.CLEAN, Reason.SAMPLE}
    assert report.updated


def caught(world: World, poisoner: Poisoner | None, *, rate: float) -> tuple[float, float]:
    """Of 1,000 flipped labels before any update: the share above the threshold, and at exactly this rate.

    The latter is above so many of 1,000 honest samples of the same step, so that no calibration is compared.
    """
    above = exact = 0.0
    for seed in range(4):
        engine = world.engine(probe=0, poisoner=poisoner, guard=guard(sample_rate=rate, per_class=10**6))
        engine.set_probe(*world.samples(900, seed=11 + seed), created_at=0, source="tests")
        report = engine.process(world.step(1, n=2_000, flipped=1_000))
        scores = torch.tensor([v.score or 0.0 for v in report.verdicts])
        assert report.sample_threshold is not None
        assert float((scores[1_000:] > report.sample_threshold).float().mean()) < 3 * rate
        above += float((scores[:1_000] > report.sample_threshold).float().mean()) / 4
        exact += float((scores[:1_000] > scores[1_000:].quantile(1 - rate)).float().mean()) / 4
    return above, exact


def test_a_vaccine_catches_more_flipped_labels_than_fisher_at_the_same_rate(world: World) -> None:
    fisher, vaccinated = (caught(world, poisoner, rate=0.01) for poisoner in (None, Cocktail()))
    for with_it, without in zip(vaccinated, fisher, strict=True):
        assert 1 - with_it < (1 - without) / 2
    assert vaccinated[1] > 0.95


def test_a_suspended_producer_survives_a_restart_and_stays_held(world: World) -> None:
    config: dict[str, Any] = {
        "guard": guard(producer_rate=1e-4, step_rate=1e-4, producer_window=30),
        "poisoner": Cocktail(epsilons=(0.3,)),
    }
    engine, again = world.engine(**config), world.engine(**config)
    for number in range(4):
        engine.process(
            mixed(number, world.step(number, n=30), world.step(10 + number, n=15, flipped=15, producer="eve"))
        )
    again.load_state(engine.state())
    assert again.producers() == engine.producers()
    assert {r.producer: r.standing for r in again.producers()} == {"ann": Standing.GOOD, "eve": Standing.SUSPENDED}
    honest = mixed(5, world.step(5, n=30), world.step(15, n=15, producer="eve"))
    report = again.process(honest)
    assert {v.reason for v, p in zip(report.verdicts, report.producers, strict=True) if p == "eve"} == {Reason.PRODUCER}
    assert report.alarmed_producers == ("eve",)
    assert report == replace(engine.process(honest), seconds=report.seconds)


def test_producers_that_change_together_are_told_as_drift_and_go_on_learning(world: World) -> None:
    """The same new noise in all samples: of five producers it is drift, of one it is an alarm.

    Two steps and a window pass before the others are known well enough, hence the steps that are counted.
    """
    how = {"sample_rate": 0.05, "step_rate": 1e-3, "producer_rate": 1e-3}
    accepted, drift = {}, {}
    for producers in (5, 1):
        engine = world.engine(learner=LearnerConfig(lr=0.0), guard=guard(**how))
        names = [f"p{row % producers}" for row in range(60)]
        reports = []
        for number in range(1, 21):
            x, y = world.samples(60, seed=number, spread=0.24)
            reports.append(engine.process(replace(world.of(number, x, y), producers=names)))
        accepted[producers] = sum(report.counts[Verdict.ACCEPT] for report in reports[5:]) / (15 * 60)
        drift[producers] = sum(report.drift for report in reports[5:])
    assert accepted[5] > 0.84
    assert accepted[1] == 0.0
    assert drift == {5: 15, 1: 0}


def test_in_drift_not_all_that_is_trusted_is_measured_at_every_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is common is no doubt about anyone: before it was taken out, every step of a new world looked like alarm."""
    engine = world.engine(learner=LearnerConfig(lr=0.02), guard=guard(sample_rate=0.05, step_rate=1e-3))
    watch, drifts = Watch(monkeypatch), []
    for number in range(1, 13):
        x, y = world.samples(60, seed=number, spread=0.24)
        step = replace(world.of(number, x, y), producers=[f"p{row % 5}" for row in range(60)])
        drifts.append(watch.process(engine, step).drift)
    assert drifts[5:] == [True] * 7
    measured = [set().union(*step) for step in watch.steps[5:]]
    assert max(len(rows) for rows in measured) < 0.3 * 294


ABSURD = 1e20  # a finite number, as any unbounded feature may be, whose square is none


@pytest.mark.parametrize("poisoner", [None, Cocktail()], ids=["no vaccine", "vaccine"])
def test_one_absurd_sample_is_held_and_disarms_no_alarm(world: World, poisoner: Cocktail | None) -> None:
    """Sixty wrong samples are held as a step; one number that makes every mean unknowable must not save them."""
    reports = []
    for absurd in (False, True):
        engine = world.engine(guard=guard(step_rate=1e-3), poisoner=poisoner)
        x, y = world.samples(90, seed=5)
        y[:60] = (y[:60] + 1) % 3
        if absurd:
            x[-1, 0] = ABSURD
        report = engine.process(replace(world.of(1, x, y), producers=[f"p{row}" for row in range(90)]))
        reports.append(report)
        assert not any(math.isnan(tensor.sum()) for tensor in engine.weights().values())
        assert "nan" not in repr(engine.state().values).lower()
    plain, absurd_one = reports
    assert absurd_one.verdicts[-1].verdict is Verdict.QUARANTINE
    assert absurd_one.alarms == plain.alarms == (Reason.STEP,)
    held = [sum(v.verdict is Verdict.QUARANTINE for v in report.verdicts[:60]) for report in reports]
    assert held[1] >= held[0] - 3


def test_an_absurd_sample_does_not_spoil_what_is_known_of_its_producer(world: World) -> None:
    engine = world.engine()
    x, y = world.samples(20, seed=1)
    x[0, 0] = ABSURD
    engine.process(world.of(1, x, y))
    engine.process(world.step(2))
    (record,) = engine.producers()
    assert record.score is not None
    assert math.isfinite(record.score)
    assert record.suspect_share is not None
    assert math.isfinite(record.suspect_share)
    assert record.standing is Standing.GOOD
