"""The whole face of core: transactions, restarts, determinism, bounds."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from weir.core import (
    CorrectionConfig,
    Engine,
    EngineConfig,
    GateConfig,
    GuardConfig,
    LearnerConfig,
    SnapshotConfig,
    transaction,
)
from weir.errors import InvalidProbe
from weir.types import (
    DeclinePolicy,
    EvidenceSet,
    GuardMode,
    Reason,
    Recipe,
    SampleRef,
    SampleVerdict,
    State,
    Step,
    StepReport,
    Verdict,
)

if TYPE_CHECKING:
    from tests.core.conftest import World

CALM: dict[str, Any] = {"sample_rate": 0.01, "step_rate": 1e-6, "producer_rate": 1e-6}
ROUGH = LearnerConfig(lr=0.5, momentum=0.9, freeze_norm=False)


def through_json(state: State) -> State:
    """A state as a checkpoint gives it back: tensors in memory of their own, plain values."""
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    return State(tensors, json.loads(json.dumps(dict(state.values))))


def bits(engine: Engine) -> dict[str, bytes]:
    """Everything the engine would put in a checkpoint, and the running generator, as bytes."""
    state = engine.state()
    held = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
    return held | {
        "values": json.dumps(dict(state.values)).encode(),
        "generator": torch.get_rng_state().numpy().tobytes(),
    }


def weights(engine: Engine) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in engine.weights().items()}


def poisoned(world: World, number: int, n: int = 60) -> tuple[Tensor, Tensor]:
    x, y = world.samples(n, seed=number)
    return x, (y + 1) % 3


class TestVeto:
    def test_restores_everything_bit_for_bit(self, noisy_world: World) -> None:
        world = noisy_world
        engine = world.engine(learner=ROUGH, gate=GateConfig(turns=1))
        engine.process(world.step(1, n=40))
        torch.manual_seed(7)
        kept, statistics = bits(engine), weights(engine)
        assert any("optimizer" in name for name in kept)
        report = engine.process(world.of(2, *poisoned(world, 5), released=True))
        assert report.vetoed
        assert not report.updated
        assert report.gate is not None
        assert report.gate.harm > 0
        assert report.gate.statistic is not None
        assert report.gate.threshold is not None
        assert report.gate.statistic > report.gate.threshold
        assert {(v.verdict, v.reason) for v in report.verdicts} == {(Verdict.QUARANTINE, Reason.VETO)}
        assert weights(engine) == statistics
        after = bits(engine)
        del kept["values"], after["values"]  # the progressive accuracy has seen the step
        assert after == kept

    def test_leaves_the_next_step_as_it_would_have_been(self, noisy_world: World) -> None:
        world = noisy_world
        one, other = world.engine(learner=ROUGH), world.engine(learner=ROUGH)
        assert one.process(world.of(1, *poisoned(world, 5), released=True)).vetoed
        for engine in (one, other):
            assert engine.process(world.step(2)).updated
        assert weights(one) == weights(other)

    def test_keeps_the_scores_of_what_it_holds(self, world: World) -> None:
        """The guard has no objection to most; the steps are so long that the gate has."""
        engine = world.engine(learner=LearnerConfig(lr=3.0))
        vetoed = [r for r in world.run(engine, 1, 10) if r.vetoed]
        assert vetoed
        for report in vetoed:
            assert {v.reason for v in report.verdicts if v.verdict is Verdict.QUARANTINE} >= {Reason.VETO}
            assert all(v.score is not None and v.pvalue is not None for v in report.verdicts)

    @pytest.mark.parametrize("switch", ["forced", "gate off", "observe", "no probe set"])
    def test_needs_a_gate(self, world: World, switch: str) -> None:
        mode = GuardMode.OBSERVE if switch == "observe" else GuardMode.WEIR
        engine = world.engine(
            learner=ROUGH,
            gate=GateConfig(enabled=switch != "gate off"),
            guard=GuardConfig(mode=mode, sample_rate=0.01),
            probe=0 if switch == "no probe set" else 420,
        )
        report = engine.process(world.of(1, *poisoned(world, 5), released=True, forced=switch == "forced"))
        assert report.gate is None
        assert report.updated
        assert engine.updates == 1

    def test_harmless_steps_are_vetoed_at_no_more_than_the_rate(self, world: World) -> None:
        engine = world.engine(gate=GateConfig(rate=0.005))
        reports = world.run(engine, 1, 300, n=10)
        assert sum(report.vetoed for report in reports) <= 5
        assert not engine.probe_stale

    def test_after_veto_upon_veto_that_nothing_explains_the_probe_set_is_called_stale(self, world: World) -> None:
        """The stream's labels mean something else now, in every sample: no alarm is possible without a guard's eye."""
        engine = world.engine(
            learner=LearnerConfig(lr=5.0), guard=GuardConfig(**(CALM | {"sample_rate": 0.005})), probe=900
        )
        stale = [(report.vetoed, report.probe_stale) for report in world.run(engine, 1, 20)]
        vetoes = [vetoed for vetoed, _ in stale]
        assert sum(vetoes) >= 10
        assert [now for _, now in stale] == [sum(vetoes[: n + 1]) >= 10 for n in range(20)]
        engine.set_probe(*world.samples(900, seed=12), created_at=0, source="tests")
        assert not engine.probe_stale


class TestNonFinite:
    @pytest.mark.parametrize("mode", [GuardMode.OFF, GuardMode.OBSERVE, GuardMode.DSC])
    def test_steps_change_nothing_and_are_held(self, noisy_world: World, mode: GuardMode) -> None:
        engine = noisy_world.engine(learner=ROUGH, guard=GuardConfig(mode=mode, sample_rate=0.01))
        engine.process(noisy_world.step(1))
        kept = weights(engine)
        step = noisy_world.step(2)
        step.x[4, 1] = torch.inf
        report = engine.process(step)
        assert {(v.verdict, v.reason) for v in report.verdicts} == {(Verdict.QUARANTINE, Reason.NON_FINITE)}
        assert not report.updated
        assert weights(engine) == kept
        assert engine.process(noisy_world.step(3)).updated

    def test_a_sample_that_is_none_is_held_alone_by_an_armed_guard(self, world: World) -> None:
        engine = world.engine()
        step = world.step(1)
        step.x[4] = torch.nan
        report = engine.process(step)
        assert report.verdicts[4].verdict is Verdict.QUARANTINE
        assert report.counts[Verdict.QUARANTINE] <= 3
        assert report.updated

    def test_a_model_that_a_finite_step_breaks_is_restored(self, world: World) -> None:
        engine = world.engine(learner=LearnerConfig(lr=1e38))
        kept = weights(engine)
        assert engine.process(world.step(1)).vetoed
        assert weights(engine) == kept


CONFIGS: dict[str, dict[str, Any]] = {
    "momentum": {"learner": LearnerConfig(lr=0.02, momentum=0.9, freeze_norm=False)},
    "refresh": {"guard": GuardConfig(**CALM, refresh=5)},
    "lag": {"snapshots": SnapshotConfig(lag=3)},
    "sparse ring": {"snapshots": SnapshotConfig(lag=4, every=2), "guard": GuardConfig(**CALM, refresh=3)},
    "hasty gate": {"gate": GateConfig(rate=0.4, tolerance=0.0, decline=0.01)},
    "producers": {"guard": GuardConfig(sample_rate=0.01, producer_rate=0.05, producer_window=30)},
    "published": {"guard": GuardConfig(mode=GuardMode.DSC, dsc_base=0.001, dsc_slope=0.001)},
}


def stream(world: World, engine: Engine, first: int, last: int) -> list[StepReport]:
    """Steps of two producers, every third with flipped labels in it."""
    reports = []
    for number in range(first, last + 1):
        step = world.step(number, n=24, flipped=3 if number % 3 == 0 else 0)
        step = replace(step, producers=["ann", "bob"] * 12)
        reports.append(replace(engine.process(step), seconds={}))
    return reports


@pytest.mark.parametrize("name", CONFIGS)
class TestRestart:
    def test_a_restart_in_mid_stream_goes_on_bit_for_bit(self, noisy_world: World, name: str) -> None:
        world = noisy_world
        straight, first, second = (world.engine(**CONFIGS[name]) for _ in range(3))
        expected = stream(world, straight, 1, 14)
        begun = stream(world, first, 1, 7)
        torch.rand(3)
        second.load_state(through_json(first.state()))
        assert begun + stream(world, second, 8, 14) == expected
        assert bits(second) == bits(straight)
        assert sum((report.counts for report in expected), Counter())[Verdict.ACCEPT] < 14 * 24

    def test_verdicts_on_record_lead_to_the_same_bits(self, noisy_world: World, name: str) -> None:
        """Recovery: the steps since the checkpoint once more, with the verdicts that are in the journal."""
        world = noisy_world
        straight, again = world.engine(**CONFIGS[name]), world.engine(**CONFIGS[name])
        reports = stream(world, straight, 1, 12)
        for number, report in enumerate(reports, 1):
            step = world.step(number, n=24, flipped=3 if number % 3 == 0 else 0)
            repeated = again.process(replace(step, producers=["ann", "bob"] * 12), report.verdicts)
            assert repeated.verdicts == report.verdicts
            assert repeated.updated == report.updated
        assert bits(again) == bits(straight)


def test_the_same_seed_and_stream_give_the_same_bytes(noisy_world: World) -> None:
    one, other = noisy_world.engine(), noisy_world.engine()
    assert stream(noisy_world, one, 1, 6) == stream(noisy_world, other, 1, 6)
    assert bits(one) == bits(other)


def test_processing_leaves_the_running_generator_alone(noisy_world: World) -> None:
    engine = noisy_world.engine()
    state = torch.get_rng_state()
    stream(noisy_world, engine, 1, 3)
    assert torch.equal(torch.get_rng_state(), state)


class TestRecorded:
    def test_a_sample_on_record_as_held_is_not_learned_on_the_second_try(self, world: World) -> None:
        engine, clean = world.engine(), world.engine()
        step = world.step(1)
        recorded = list(clean.process(replace(step)).verdicts)
        recorded[3] = SampleVerdict(Verdict.QUARANTINE, Reason.STEP)
        report = engine.process(step, recorded)
        assert report.verdicts == tuple(recorded)
        assert weights(engine) != weights(clean)
        # A step of 19 of its own would give each of them a twentieth more weight.
        without = world.engine(guard=GuardConfig(mode=GuardMode.OFF), learner=LearnerConfig(lr=0.02 * 19 / 20))
        rest = [row for row in range(20) if row != 3]
        without.process(world.of(1, step.x[rest], step.y[rest]))
        # Not the same bits: the held sample was scored in the same pass, whose sums are rounded in another order.
        for name, tensor in engine.weights().items():
            assert torch.allclose(tensor, without.weights()[name], rtol=1e-5, atol=1e-7)
            assert not torch.allclose(tensor, clean.weights()[name], rtol=1e-5, atol=1e-7)

    def test_a_sample_on_record_as_accepted_is_learned_whatever_is_found_now(self, world: World) -> None:
        engine, off = world.engine(gate=GateConfig(enabled=False)), world.engine(guard=GuardConfig(mode=GuardMode.OFF))
        step = world.step(1, flipped=3)
        recorded = (SampleVerdict(Verdict.ACCEPT, Reason.CLEAN, 1.0, 2.0),) * 20
        assert engine.process(step, recorded).verdicts == recorded
        off.process(step)
        assert weights(engine) == weights(off)

    def test_a_step_on_record_as_held_whole_updates_nothing(self, world: World) -> None:
        engine = world.engine()
        kept = weights(engine)
        recorded = (SampleVerdict(Verdict.QUARANTINE, Reason.VETO),) * 20
        report = engine.process(world.step(1), recorded)
        assert (report.updated, report.loss, report.gate, engine.updates) == (False, None, None, 0)
        assert weights(engine) == kept


@pytest.mark.parametrize(("n", "share"), [(1, 1 / 20), (40, 1.0)])
def test_a_lone_sample_moves_the_model_no_further_than_in_a_full_step(world: World, n: int, share: float) -> None:
    """Else who sends one by one while nobody else sends would move it as far with each as with a whole step."""
    off = GuardConfig(mode=GuardMode.OFF)
    engine = world.engine(step_size=20, guard=off)
    whole = world.engine(step_size=1, guard=off, learner=LearnerConfig(lr=0.02 * share))
    for one in (engine, whole):
        assert one.process(world.step(1, n=n)).updated
    for name, tensor in engine.weights().items():
        torch.testing.assert_close(tensor, whole.weights()[name], rtol=1e-6, atol=1e-8)


class TestReleased:
    def test_a_released_sample_is_learned_without_a_verdict_of_the_guard(self, world: World) -> None:
        engine = world.engine()
        x, y = poisoned(world, 3, n=1)
        report = engine.process(world.of(4, x, y, producer="eve", released=True))
        assert report.verdicts == (SampleVerdict(Verdict.ACCEPT, Reason.RELEASED),)
        assert report.updated
        assert engine.producers() == ()  # its producer was judged by it once already

    def test_it_still_must_be_finite(self, world: World) -> None:
        engine = world.engine()
        kept = weights(engine)
        report = engine.process(world.of(1, torch.full((1, 6), torch.inf), torch.zeros(1).long(), released=True))
        assert report.verdicts[0].reason is Reason.NON_FINITE
        assert weights(engine) == kept


class TestRollBack:
    def test_model_optimizer_and_ring_come_back_and_the_evidence_stays(self, noisy_world: World) -> None:
        world = noisy_world
        config: dict[str, Any] = {
            "learner": LearnerConfig(lr=0.02, momentum=0.9, freeze_norm=False),
            "snapshots": SnapshotConfig(lag=2),
        }
        engine = world.engine(**config)
        stream(world, engine, 1, 5)
        older = through_json(engine.state())
        kept = bits(engine)
        stream(world, engine, 6, 9)
        engine.set_mode(GuardMode.OBSERVE)
        records, accuracy = engine.producers(), engine.progressive_accuracy
        engine.roll_back(older)
        after = bits(engine)
        for name in kept:
            if name.startswith(("learner/", "snapshots/")):
                assert after[name] == kept[name], name
        assert engine.updates == 5
        assert engine.mode is GuardMode.OBSERVE
        assert engine.producers() == records
        assert engine.progressive_accuracy == accuracy

    def test_the_guard_is_not_blind_after_it(self, world: World) -> None:
        engine = world.engine(snapshots=SnapshotConfig(lag=2))
        stream(world, engine, 1, 5)
        older = engine.state()
        stream(world, engine, 6, 8)
        engine.roll_back(older)
        report = engine.process(world.step(9))
        assert report.lag == 2
        assert report.step_discrepancy is not None
        assert report.step_discrepancy > 0

    def test_the_probe_accuracy_is_that_of_the_restored_model(self, world: World) -> None:
        engine = world.engine(gate=GateConfig(enabled=False), learner=LearnerConfig(lr=5.0))
        older, accuracy = engine.state(), engine.probe_accuracy()
        for number in range(3):
            engine.process(world.of(number, *poisoned(world, number), released=True))
        assert engine.probe_accuracy() != accuracy
        engine.roll_back(older)
        assert engine.probe_accuracy() == accuracy


def test_bytes_and_fractions_of_255_give_the_same_weights_and_verdicts(world: World) -> None:
    one, other = world.engine(), world.engine()
    for number in range(1, 6):
        step = world.step(number, flipped=2)
        whole = (step.x * 255).round().to(torch.uint8)
        a = one.process(replace(step, x=whole))
        b = other.process(replace(step, x=whole.float() / 255))
        assert a.verdicts == b.verdicts
    assert weights(one) == weights(other)


def test_the_progressive_accuracy_is_of_predictions_made_before_the_step(world: World) -> None:
    engine = world.engine()
    step = world.step(1, n=50)
    before = float((engine.predict(step.x).argmax(1) == step.y).float().mean())
    assert engine.process(step).progressive_accuracy == pytest.approx(before)


def test_the_lag_is_counted_in_updates(world: World) -> None:
    assert [r.lag for r in world.run(world.engine(), 1, 3)] == [1, 2, 3]
    ringed = world.run(world.engine(snapshots=SnapshotConfig(lag=2)), 1, 6)
    assert [r.lag for r in ringed] == [1, 2, 2, 2, 2, 2]


def test_the_clock_feeds_the_stages_and_nothing_else(world: World) -> None:
    def ticks() -> Iterator[float]:
        now = 0.0
        while True:
            yield (now := now + 0.5)

    time = ticks()
    timed = Engine(world.recipe, world.config(), clock=lambda: next(time))
    timed.load_state(world.engine().state())
    report = timed.process(world.step(1))
    plain = world.engine().process(world.step(1))
    assert set(report.seconds) == {"score", "guard", "learn", "gate"}
    assert all(seconds > 0 for seconds in report.seconds.values())
    assert replace(report, seconds={}) == replace(plain, seconds={})
    assert not any(plain.seconds.values())


def test_a_probe_set_that_does_not_fit_changes_nothing(world: World) -> None:
    engine = world.engine()
    info, kept = engine.probe, bits(engine)
    x, y = world.samples(420, seed=3)
    for bad in [(x[:60], y[:60]), (x[:, :5], y), (x, y % 2), (x, y + 1), (x, y - 1)]:
        with pytest.raises(InvalidProbe):
            engine.set_probe(*bad, created_at=1, source="tests")
    assert engine.probe == info
    assert bits(engine) == kept
    new = engine.set_probe(x, y, created_at=1, source="someone")
    assert engine.probe == new
    assert new != info
    assert new.source == "someone"


def test_the_probe_set_is_never_learned(world: World) -> None:
    """Two probe sets and no gate: the weights are the same."""
    engines = [
        world.engine(probe=0, gate=GateConfig(enabled=False), guard=GuardConfig(mode=GuardMode.OBSERVE)) for _ in "ab"
    ]
    for seed, engine in enumerate(engines):
        engine.set_probe(*world.samples(420, seed=seed), created_at=0, source="tests")
        world.run(engine, 1, 3)
    assert weights(engines[0]) == weights(engines[1])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


LIGHT = {
    "probe": 0,
    "guard": GuardConfig(mode=GuardMode.OBSERVE),
    "gate": GateConfig(enabled=False),
    "snapshots": SnapshotConfig(lag=50, every=10),
}
EVERYTHING = {
    "probe": 90,
    "guard": GuardConfig(sample_rate=0.05),
    "correction": CorrectionConfig(enabled=True, steps=2),
    "snapshots": SnapshotConfig(lag=5),
}


@pytest.mark.parametrize(("parts", "steps"), [(LIGHT, 10_000), (EVERYTHING, 800)], ids=["light", "everything"])
def test_memory_stays_flat(world: World, parts: dict[str, Any], steps: int) -> None:
    engine = world.engine(**parts)
    x, y = world.samples(64, seed=1)

    def run(first: int, last: int) -> tuple[int, int, int]:
        for number in range(first, last):
            rows = slice(4 * (number % 16), 4 * (number % 16) + 4)
            engine.process(replace(world.of(number, x[rows], y[rows]), producers=["ann", "bob"] * 2))
        gc.collect()
        return len(gc.get_objects()), resident_bytes(), len(json.dumps(dict(engine.state().values)))

    objects, resident, values = run(0, steps // 3)
    objects_after, resident_after, values_after = run(steps // 3, steps)
    assert objects_after - objects < 500
    assert resident_after - resident < 8 * 2**20
    assert values_after < 1.2 * values


def drifting(world: World, number: int) -> Step:
    """Samples of five producers, all of them noisier than before."""
    x, y = world.samples(60, seed=number, spread=0.24)
    return replace(world.of(number, x, y), producers=[f"p{row % 5}" for row in range(60)])


def test_in_drift_as_much_of_a_step_is_kept_as_the_gate_lets_pass(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a step, or a quarter, that is too long; without that it would be undone. A repeat does the same."""
    rough: dict[str, Any] = {"learner": LearnerConfig(lr=6.0), "guard": GuardConfig(sample_rate=0.05, step_rate=1e-3)}
    engine, again = world.engine(**rough), world.engine(**rough)
    shares = []
    for number in range(1, 11):
        state = through_json(engine.state())
        report = engine.process(drifting(world, number))
        if report.gate is None or not report.drift:
            continue
        assert report.gate.statistic is not None
        assert report.gate.threshold is not None
        assert report.gate.statistic <= report.gate.threshold
        assert report.updated
        shares.append(report.gate.share)
        again.load_state(state)
        assert again.process(drifting(world, number)).gate == report.gate
        assert weights(again) == weights(engine)
        if report.gate.share < 1:
            with monkeypatch.context() as patch:
                patch.setattr(transaction, "HALVINGS", 0)
                again.load_state(state)
                assert again.process(drifting(world, number)).vetoed
    assert len(shares) >= 7
    assert min(shares) < 1
    assert set(shares) <= {0.5**halvings for halvings in range(transaction.HALVINGS + 1)}


def test_what_is_released_while_the_world_drifts_may_hurt_the_old_one_as_much_as_the_rest(world: World) -> None:
    rough: dict[str, Any] = {
        "learner": LearnerConfig(lr=6.0),
        "guard": GuardConfig(sample_rate=0.05, step_rate=1e-3),
        "gate": GateConfig(rate=0.4, tolerance=0.0),  # in a calm world hardly any harm passes
    }
    engine, held = world.engine(**rough), replace(drifting(world, 50), released=True)
    for number in range(1, 7):
        engine.process(drifting(world, number))
    state = engine.state()
    calm = State(state.tensors, {**state.values, "drift": False})
    for how, updated in ((state, True), (calm, False)):
        engine.load_state(through_json(how))
        assert engine.process(held).updated == updated
        assert engine.drift == updated


FAST = LearnerConfig(lr=0.05, momentum=0.9)


def test_harmful_momentum_is_forgotten_and_not_put_down_to_the_samples_that_come_next(world: World) -> None:
    """Undoing a step restores its momentum, and a harmful one would fail every honest step that follows."""
    engine = world.engine(learner=FAST)
    world.run(engine, 1, 1, n=50)
    state = engine.state()
    hostile = {name: torch.full_like(t, 30.0) if "/optimizer/" in name else t for name, t in state.tensors.items()}
    engine.load_state(State(hostile, state.values))
    first, second = world.run(engine, 2, 3, n=50)
    assert first.gate is not None
    assert first.gate.rested
    assert first.updated
    assert not first.vetoed
    assert second.gate is not None
    assert not second.gate.from_rest
    assert second.updated


def test_harmful_momentum_is_forgotten_in_drift_too_and_of_the_step_from_rest_as_much_kept_as_passes(
    world: World,
) -> None:
    rough: dict[str, Any] = {
        "learner": LearnerConfig(lr=6.0, momentum=0.9),
        "guard": GuardConfig(sample_rate=0.05, step_rate=1e-3),
    }
    engine, generator = world.engine(**rough), torch.Generator().manual_seed(0)
    for number in range(1, 4):
        engine.process(drifting(world, number))
    state = engine.state()
    hostile = {
        name: 10 * torch.randn(t.shape, generator=generator) if "/optimizer/" in name else t
        for name, t in state.tensors.items()
    }
    engine.load_state(State(hostile, state.values))
    report = engine.process(drifting(world, 4))
    assert report.drift
    assert report.gate is not None
    assert report.gate.rested
    assert report.gate.shortened
    assert report.updated


def test_a_step_that_had_no_earlier_momentum_is_not_taken_twice(world: World) -> None:
    engine = world.engine(learner=LearnerConfig(lr=2.0))
    x, y = world.samples(50, seed=9)
    report = engine.process(world.of(1, x, (y + 1) % 3, released=True))
    assert report.vetoed
    assert report.gate is not None
    assert not report.gate.from_rest


def test_samples_that_hurt_without_earlier_momentum_too_are_undone_bit_for_bit(world: World) -> None:
    engine = world.engine(learner=replace(FAST, lr=2.0))
    world.run(engine, 1, 2, n=50)
    before = {name: tensor for name, tensor in engine.state().tensors.items() if name.startswith("learner/")}
    assert any("/optimizer/" in name for name in before)
    x, y = world.samples(50, seed=9)
    report = engine.process(world.of(3, x, (y + 1) % 3, released=True))
    assert report.gate is not None
    assert report.gate.from_rest
    assert report.vetoed
    assert not report.gate.rested
    after = engine.state().tensors
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_restart_with_other_signals_starts_the_evidence_anew_and_goes_on(image_recipe: Recipe) -> None:
    """Windows and calibration of ten columns mean nothing beside twelve."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(420, 1, 8, 8, generator=generator), torch.arange(420) % 3

    def engine(chosen: EvidenceSet) -> Engine:
        made = Engine(image_recipe, EngineConfig(guard=GuardConfig(evidence=chosen)))
        made.set_anchor()
        made.set_probe(x, y, created_at=0, source="tests")
        return made

    def step(number: int) -> Step:
        return Step(number, x[:20], y[:20], [SampleRef(f"b{number}", row) for row in range(20)], ["ann"] * 20)

    before, after = engine(EvidenceSet.NO_IMAGES), engine(EvidenceSet.ALL)
    before.process(step(1))
    after.load_state(before.state())
    assert after.producers()[0].seen == 20
    assert after.producers()[0].score is None
    assert after.process(step(2)).step_score is not None
    assert after.producers()[0].seen == 40


def test_a_rollback_to_the_best_puts_its_weights_back_and_survives_a_restart(world: World) -> None:
    """Released samples with wrong labels hurt a little each time; the decline passes its bound in the end."""
    gate = GateConfig(tolerance=10.0, decline=0.02, decline_policy=DeclinePolicy.ROLLBACK)
    engine = world.engine(gate=gate, learner=LearnerConfig(lr=0.02))
    for number in range(1, 4):
        assert engine.process(world.step(number)).updated
    x, y = world.samples(60, seed=3)
    for number in range(4, 60):
        again = world.engine(gate=gate, learner=LearnerConfig(lr=0.02))
        again.load_state(engine.state())
        step = world.of(number, x, (y + 1) % 3, released=True)
        report, repeated = engine.process(step), again.process(step)
        assert weights(engine) == weights(again)
        assert report.gate == repeated.gate
        assert report.gate is not None
        if report.gate.rolled_back:
            assert report.gate.declined
            assert not report.updated
            break
    else:
        pytest.fail("the decline never passed its bound")
    assert engine.updates < number - 1


ROLLING = GateConfig(tolerance=10.0, decline=0.02, decline_policy=DeclinePolicy.ROLLBACK)


def declining(world: World, engine: Engine, first: int, last: int, **how: Any) -> list[StepReport]:
    """Steps that each hurt a little, past the guard."""
    x, y = world.samples(60, seed=3)
    return [engine.process(world.of(n, x, (y + 1) % 3, released=True, **how)) for n in range(first, last + 1)]


def test_a_rollback_on_record_leads_to_the_same_bits(world: World) -> None:
    engine, again = (world.engine(gate=ROLLING, learner=LearnerConfig(lr=0.02, momentum=0.5)) for _ in "ab")
    for number in range(1, 4):
        report = engine.process(world.step(number))
        again.process(world.step(number), report.verdicts)
    reports = declining(world, engine, 4, 60)
    assert any(v.reason is Reason.ROLLBACK for report in reports for v in report.verdicts)
    x, y = world.samples(60, seed=3)
    for report in reports:
        again.process(world.of(report.step, x, (y + 1) % 3, released=True), report.verdicts)
    assert weights(engine) == weights(again)
    assert engine.updates == again.updates


def test_a_rollback_needs_no_better_model_to_have_been_seen(world: World) -> None:
    """The model that the policy starts from is its best: what is put back is there, and learning goes on."""
    engine = world.engine(gate=ROLLING, learner=LearnerConfig(lr=0.02))
    start = weights(engine)
    reports = declining(world, engine, 1, 60)
    first = next(report for report in reports if report.gate and report.gate.rolled_back)
    assert not first.updated
    rolled = world.engine(gate=ROLLING, learner=LearnerConfig(lr=0.02))
    declining(world, rolled, 1, first.step)
    assert weights(rolled) == start
    assert rolled.process(world.step(first.step + 1)).updated


def test_what_an_admin_forces_is_no_decline(world: World) -> None:
    engine = world.engine(gate=ROLLING, learner=LearnerConfig(lr=0.02))
    declining(world, engine, 1, 20, forced=True)
    report = engine.process(world.step(21))
    assert report.updated
    assert report.gate is not None
    assert not report.gate.declined
    assert engine.updates == 21


def test_a_rollback_leaves_no_snapshot_of_the_future(world: World) -> None:
    engine = world.engine(gate=ROLLING, learner=LearnerConfig(lr=0.02), snapshots=SnapshotConfig(lag=2))
    for report in declining(world, engine, 1, 60):
        assert report.lag is None or report.lag >= 0
