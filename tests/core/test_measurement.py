"""The vaccine is made from trusted samples alone, and what is computed once is not computed twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from weir.core import Engine, GuardConfig, LearnerConfig
from weir.core.evidence import OF_THE_INPUT
from weir.core.measurement import VACCINE_SAMPLES, Measurement
from weir.core.network import Network
from weir.core.probe import SHARES, ProbeSet
from weir.core.snapshots import Snapshot
from weir.core.task import Classification
from weir.core.vaccine import Strain
from weir.redteam import Cocktail
from weir.types import EvidenceSet, GuardMode, InputSpec, Recipe, State, StepReport

if TYPE_CHECKING:
    from tests.core.conftest import World

CALM: dict[str, Any] = {"sample_rate": 0.01, "step_rate": 1e-6, "producer_rate": 1e-6}


def contents(module: nn.Module) -> dict[str, bytes]:
    """Every parameter, buffer and gradient of a module, and whether it is training."""
    held = {name: tensor.detach().numpy().tobytes() for name, tensor in module.state_dict().items()}
    gradients = {f"{name}.grad": repr(p.grad).encode() for name, p in module.named_parameters()}
    flags = {f"{name}.training": str(m.training).encode() for name, m in module.named_modules()}
    wanted = {f"{name}.requires_grad": str(p.requires_grad).encode() for name, p in module.named_parameters()}
    return held | gradients | flags | wanted


@dataclass
class Recorder:
    """A poisoner that flips labels and moves a little, and writes down what it was given."""

    calls: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None, int]] = field(default_factory=list)

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, *, low: Tensor | None, high: Tensor | None, seed: int
    ) -> Sequence[Strain]:
        self.calls.append((x.clone(), y.clone(), low, high, seed))
        everyone = torch.arange(len(y))
        moved = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).sign()
        return [Strain("flip", x, (y + 1) % 3, everyone), Strain("noise", moved, y, everyone)]


def samples_of(x: Tensor, y: Tensor) -> set[bytes]:
    """Every sample with its label, bit for bit."""
    return {row.numpy().tobytes() + bytes([int(label)]) for row, label in zip(x, y, strict=True)}


def parts(engine: Engine, x: Tensor, y: Tensor) -> dict[str, set[bytes]]:
    """The prepared samples of each part of a probe set."""
    probe = ProbeSet(x, y, created_at=0.0, source="tests")
    found = {name: probe.part(name) for name in SHARES}
    return {name: samples_of(engine.network.prepare(part.x), part.y) for name, part in found.items()}


def through_json(state: State) -> State:
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    return State(tensors, json.loads(json.dumps(dict(state.values))))


def run(world: World, engine: Engine, first: int, last: int) -> list[StepReport]:
    return world.run(engine, first, last, n=24, flipped=2)


def test_the_vaccine_never_sees_the_stream_nor_what_decides_about_it(world: World) -> None:
    recorder = Recorder()
    engine = world.engine(poisoner=recorder, guard=GuardConfig(**CALM, vaccine_refresh=3), probe=900)
    run(world, engine, 1, 10)
    known = parts(engine, *world.samples(900, seed=11))
    stream: set[bytes] = set()
    for number in range(1, 11):
        step = world.step(number, n=24, flipped=2)
        stream |= samples_of(engine.network.prepare(step.x), step.y)
    assert len(recorder.calls) == 4
    for x, y, *_ in recorder.calls:
        seen = samples_of(x, y)
        assert len(seen) == VACCINE_SAMPLES
        assert seen <= known["fit"] | known["threshold"]
        assert not seen & (known["gate"] | known["report"] | stream)


def test_prepared_samples_and_prepared_bounds_are_given(world: World) -> None:
    """Bytes in, standardised: the poisoner works in the units of the model."""
    inputs = InputSpec((6,), 3, 0.0, 1.0, center=(0.5,) * 6, scale=(0.25,) * 6)
    recorder = Recorder()
    engine = Engine(Recipe("mlp", inputs, {"hidden": 8}), world.config(), poisoner=recorder)
    engine.set_anchor()
    x, y = world.samples(420, seed=11)
    whole = (x * 255).round().to(torch.uint8)
    engine.set_probe(whole, y, created_at=0, source="tests")
    engine.process(world.step(1))
    ((seen_x, seen_y, low, high, _),) = recorder.calls
    known = parts(engine, whole, y)
    assert samples_of(seen_x, seen_y) <= known["fit"] | known["threshold"]
    assert float(seen_x.min()) < -0.5  # no longer in [0, 1]
    assert low is not None
    assert high is not None
    assert (low.tolist(), high.tolist()) == ([-2.0] * 6, [2.0] * 6)


@pytest.mark.parametrize("refresh", [1, 4])
def test_it_is_made_once_in_so_many_steps_and_says_how_old_it_is(world: World, refresh: int) -> None:
    recorder = Recorder()
    engine = world.engine(poisoner=recorder, guard=GuardConfig(**CALM, vaccine_refresh=refresh))
    ages, calls, due = [], [], []
    for number in range(1, 11):
        due.append(engine.vaccine_due)
        ages.append(run(world, engine, number, number)[0].vaccine_age)
        calls.append(len(recorder.calls))
    assert due == [age == 0 for age in ages]
    assert ages == [step % refresh for step in range(10)]
    assert calls == [1 + step // refresh for step in range(10)]
    assert len({seed for *_, seed in recorder.calls}) == len(recorder.calls)  # new poison each time


def test_a_slow_calibration_does_not_put_off_the_vaccine(world: World) -> None:
    recorder = Recorder()
    engine = world.engine(poisoner=recorder, guard=GuardConfig(**CALM, vaccine_refresh=4, refresh=3))
    ages = [report.vaccine_age for report in run(world, engine, 1, 12)]
    assert ages == [0, 1, 2, 3] * 3
    assert len(recorder.calls) == 3


def test_making_it_leaves_the_module_and_the_running_generator_as_they_were(noisy_world: World) -> None:
    world = noisy_world
    held: list[dict[str, bytes]] = []

    class Watching(Recorder):
        def __call__(self, module: nn.Module, x: Tensor, y: Tensor, **how: Any) -> Sequence[Strain]:
            held.append(contents(module))
            return super().__call__(module, x, y, **how)

    engine = world.engine(poisoner=Watching(), guard=GuardConfig(**CALM, vaccine_refresh=1, mode=GuardMode.OBSERVE))
    plain = world.engine(guard=GuardConfig(**CALM, mode=GuardMode.OBSERVE))
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    for number in range(1, 4):
        before = contents(engine.network.module)
        run(world, engine, number, number)
        run(world, plain, number, number)
        assert held[-1] == before  # the learner comes after the guard
    assert contents(engine.network.module) == contents(plain.network.module)
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_restored_engine_reports_as_the_one_that_ran_on(noisy_world: World) -> None:
    world = noisy_world
    how: dict[str, Any] = {"guard": GuardConfig(**CALM, vaccine_refresh=6), "learner": LearnerConfig(lr=0.05)}
    recorders = [Recorder() for _ in range(3)]
    straight, first, second = (world.engine(poisoner=recorder, **how) for recorder in recorders)
    expected = run(world, straight, 1, 15)
    begun = run(world, first, 1, 9)
    state = first.state()
    assert any("vaccine" in name for name in state.tensors)
    second.load_state(through_json(state))
    assert begun + run(world, second, 10, 15) == expected
    assert [report.vaccine_age for report in expected] == [step % 6 for step in range(15)]
    assert [len(recorder.calls) for recorder in recorders] == [3, 2, 1]  # at step 13, and not after the restart
    plain = run(world, world.engine(**how), 1, 15)
    assert [r.verdicts for r in plain] != [r.verdicts for r in expected]  # it does make a difference


def test_a_vaccine_of_an_earlier_version_is_made_anew_and_what_producers_did_is_kept(world: World) -> None:
    recorders = [Recorder(), Recorder()]
    before, after = (world.engine(poisoner=recorder, guard=GuardConfig(**CALM)) for recorder in recorders)
    run(world, before, 1, 3)
    state = through_json(before.state())
    earlier = {name: tensor for name, tensor in state.tensors.items() if not name.endswith("held_out")}
    assert len(earlier) == len(state.tensors) - 1
    after.load_state(State(earlier, state.values))
    assert after.producers() == before.producers()
    assert [report.vaccine_age for report in run(world, after, 4, 5)] == [0, 1]
    (known,), (known_before,) = after.producers(), before.producers()
    assert known.seen == known_before.seen + 48


def test_without_a_poisoner_there_is_no_vaccine(world: World) -> None:
    engine = world.engine()
    assert {report.vaccine_age for report in run(world, engine, 1, 3)} == {None}
    assert not any("vaccine" in name for name in engine.state().tensors)


@pytest.mark.parametrize("guard", [{"vaccine": False}, {"mode": GuardMode.DSC}, {"mode": GuardMode.OFF}])
def test_nor_where_it_is_switched_off_or_of_no_use(world: World, guard: dict[str, Any]) -> None:
    recorder = Recorder()
    engine = world.engine(poisoner=recorder, guard=GuardConfig(**CALM, **guard, dsc_base=None))
    assert {report.vaccine_age for report in run(world, engine, 1, 3)} == {None}
    assert not engine.vaccine_due
    assert recorder.calls == []


@pytest.mark.parametrize("replaced", ["anchor", "probe set", "model"])
def test_another_anchor_probe_set_or_model_is_vaccinated_against_anew(world: World, replaced: str) -> None:
    recorder = Recorder()
    engine = world.engine(poisoner=recorder, guard=GuardConfig(**CALM, vaccine_refresh=100))
    older = engine.state()
    assert [report.vaccine_age for report in run(world, engine, 1, 3)] == [0, 1, 2]
    match replaced:
        case "anchor":
            engine.set_anchor()
        case "probe set":
            engine.set_probe(*world.samples(420, seed=12), created_at=0, source="tests")
        case _:
            engine.roll_back(older)
    assert [report.vaccine_age for report in run(world, engine, 4, 5)] == [0, 1]
    assert len(recorder.calls) == 2
    seen = samples_of(*recorder.calls[-1][:2])
    known = parts(engine, *world.samples(420, seed=12 if replaced == "probe set" else 11))
    assert seen <= known["fit"] | known["threshold"]


def test_strains_of_one_name_are_learned_together(world: World) -> None:
    """Two strains under one name are one attack, with one expert."""

    def twice(module: nn.Module, x: Tensor, y: Tensor, **how: Any) -> Sequence[Strain]:
        everyone = torch.arange(len(y))
        return [Strain("flip", x, (y + shift) % 3, everyone) for shift in (1, 2)]

    engine = world.engine(poisoner=twice)
    run(world, engine, 1, 1)
    state = engine.state().part("guard").part("vaccine")
    assert state.values["names"] == ["flip"]
    assert state.tensors["weights"].shape[0] == 1


@dataclass
class Counter:
    """Counts the samples that go forward, by the size of what they go in."""

    sizes: list[int] = field(default_factory=list)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.sizes.append(len(inputs[0]))


def taken(network: Network) -> Snapshot:
    """A snapshot of a network as it is."""
    weights = network.snapshot()
    return Snapshot(0, weights, weights)


def measuring(network: Network, world: World, *, seed: int = 11) -> Measurement:
    """A measurement of its own, with a probe set."""
    made = Measurement(network, Classification(), GuardConfig(**CALM), None)
    made.probe = ProbeSet(*world.samples(420, seed=seed), created_at=0.0, source="tests")
    return made


def test_a_snapshots_outputs_on_the_probe_set_are_computed_once(world: World) -> None:
    network = world.network()
    measurement = measuring(network, world)
    counter = Counter()
    network.module.register_forward_pre_hook(counter)

    def forwards(snapshot: Snapshot, rows: int) -> list[int]:
        counter.sizes.clear()
        measurement.measure(range(rows))
        measurement.trusted(snapshot)
        return counter.sizes

    one, whole = taken(network), measurement.size
    assert whole == sum(len(measurement.probe.part(name).y) for name in ("fit", "threshold") if measurement.probe)
    assert forwards(one, 10) == [whole, whole]  # now and then
    assert forwards(one, 10) == forwards(one, 10) == [10]  # then is known, and most of now
    other = taken(network)
    assert forwards(other, 10) == [10, whole]  # another snapshot is not taken for the first
    assert forwards(other, 10) == [10]
    measurement.probe = ProbeSet(*world.samples(420, seed=12), created_at=0.0, source="tests")
    assert forwards(other, 10) == [whole, whole]


def test_what_is_measured_is_measured_anew_and_nothing_else(world: World) -> None:
    network = world.network()
    rolling, snapshot = measuring(network, world), taken(network)
    then = rolling.trusted(snapshot)
    network.load(Network(world.recipe, seed=9).snapshot())
    now, everything = measuring(network, world).trusted(snapshot), torch.arange(rolling.size)
    output = [column for column, name in enumerate(rolling.names) if name not in {"harm", *OF_THE_INPUT}]
    for start in range(0, rolling.size, 40):
        measured = torch.arange(min(start + 40, rolling.size))
        rolling.measure([*measured[start:].tolist(), start])  # naming one twice does no harm
        rest, found = everything[len(measured) :], rolling.trusted(snapshot)
        torch.testing.assert_close(found.evidence[measured][:, output], now.evidence[measured][:, output])
        assert torch.equal(found.evidence[rest][:, output], then.evidence[rest][:, output])
    torch.testing.assert_close(rolling.trusted(snapshot).evidence, now.evidence, rtol=1e-4, atol=1e-5)


def test_each_trusted_sample_has_its_turn(world: World) -> None:
    measurement = measuring(world.network(), world)
    everyone = measuring(world.network(), world).next_turn(measurement.size)
    assert sorted(everyone) == list(range(measurement.size))
    assert len(everyone) == len(measurement.trusted(taken(world.network())).labels)
    assert measurement.next_turn(30) + measurement.next_turn(30) == everyone[:60]
    assert measurement.next_turn(len(everyone) - 61) == everyone[60:-1]
    assert measurement.next_turn(3) == [everyone[-1], *everyone[:2]]
    assert sorted(measurement.next_turn(10_000)) == sorted(everyone)  # nobody twice


def test_who_stand_side_by_side_have_their_turns_apart(world: World) -> None:
    """A probe set may be sorted by class: what is measured at a step must still be of all of them."""
    turn = measuring(world.network(), world).next_turn(60)
    assert max(turn) - min(turn) > 200
    assert sum(abs(one - other) == 1 for one, other in itertools.pairwise(turn)) < 5


def test_a_restart_goes_on_where_the_measuring_was(world: World) -> None:
    network = world.network()
    straight, again, snapshot = measuring(network, world), measuring(network, world), taken(network)
    straight.measure()
    for _ in range(3):
        straight.measure(straight.next_turn(30))
    again.load_state(straight.state())
    network.load(Network(world.recipe, seed=9).snapshot())
    turns = again.next_turn(20), straight.next_turn(20)
    assert turns[0] == turns[1]
    fresh = measuring(network, world)
    assert not set(turns[0]) & set(fresh.next_turn(90))  # these had theirs
    assert torch.equal(straight.trusted(snapshot).evidence, again.trusted(snapshot).evidence)


@pytest.mark.parametrize(("signal", "tolerance"), [("mahalanobis", 0.1), ("harm", 0.25)])
def test_what_is_trusted_is_measured_as_if_it_were_not_known(world: World, signal: str, tolerance: float) -> None:
    """Else a fresh sample would differ from it by what was learned from it, and not by what it is."""
    network = world.network()
    measurement = measuring(network, world)
    trusted = measurement.trusted(taken(network))
    column = measurement.names.index(signal)

    def measured(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return measurement.matrix(x, y, network.outputs(x), taken(network), trusted.influence)[:, column]

    assert measurement.probe is not None
    x, y = (torch.cat(of) for of in zip(*(measurement.probe.part(name) for name in ("fit", "threshold")), strict=True))
    own, fresh = trusted.evidence[:, column], measured(*world.samples(4_000, seed=12))
    assert float(own.mean()) == pytest.approx(float(fresh.mean()), rel=tolerance)
    known = measured(x, y)
    assert float(known.mean()) < float(own.mean())
    if signal == "mahalanobis":  # a sample may align less with itself than with the others of its class
        assert bool((known < own).all())


@pytest.mark.parametrize(
    "how", [{}, {"poisoner": Cocktail(), "guard": GuardConfig(**CALM, vaccine=False)}], ids=["no poisoner", "off"]
)
def test_a_restart_without_a_vaccine_takes_none_from_the_state(world: World, how: dict[str, Any]) -> None:
    engine, again = world.engine(poisoner=Cocktail(), guard=GuardConfig(**CALM)), world.engine(**how)
    world.run(engine, 1, 2)
    again.load_state(engine.state())
    assert {report.vaccine_age for report in world.run(again, 3, 5)} == {None}


def test_a_state_of_other_signals_leaves_no_consensus_of_before(world: World) -> None:
    one = world.engine(guard=GuardConfig(**CALM))
    other = world.engine(guard=GuardConfig(**CALM, evidence=EvidenceSet.MODEL))
    world.run(one, 1, 2)
    world.run(other, 1, 2, producer="zed")
    one.load_state(other.state())
    assert one.state().part("guard").values["consensus"]["producers"] == []


def headless_of_gradients(inputs: InputSpec) -> nn.Module:
    """A model with a parameter that its output does not depend on."""
    model = nn.Sequential(nn.Linear(6, inputs.classes))
    model.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    return model


def test_a_parameter_without_use_is_no_reason_to_stop(world: World) -> None:
    recipe = Recipe(f"{__name__}:headless_of_gradients", world.recipe.inputs)
    engine = Engine(recipe, world.config(), poisoner=Cocktail())
    engine.set_anchor()
    engine.set_probe(*world.samples(420, seed=11), created_at=0.0, source="tests")
    assert {report.vaccine_age for report in world.run(engine, 1, 2)} == {0, 1}
    assert engine.unvaccinated_because is None


def test_a_poisoner_that_fails_leaves_the_guard_unvaccinated_and_says_why(world: World) -> None:
    def failing(module: nn.Module, x: Tensor, y: Tensor, **how: Any) -> Sequence[Strain]:
        raise RuntimeError("no second derivative")

    engine = world.engine(poisoner=failing)
    reports = world.run(engine, 1, 2)
    assert all(report.updated and report.vaccine_age is None for report in reports)
    assert engine.unvaccinated_because is not None
    assert "no second derivative" in engine.unvaccinated_because


@pytest.mark.parametrize("refresh", [1, 3])
def test_a_restart_with_the_vaccine_off_starts_the_evidence_anew_and_goes_on(world: World, refresh: int) -> None:
    config = GuardConfig(**CALM, refresh=refresh)
    engine, again = world.engine(poisoner=Cocktail(), guard=config), world.engine(guard=config)
    world.run(engine, 1, 2)
    again.load_state(engine.state())
    assert all(report.updated for report in world.run(again, 3, 6))


def test_what_producers_had_in_common_is_forgotten_with_what_it_was_measured_against(world: World) -> None:
    def known(engine: Engine) -> list[Any]:
        return list(engine.state().part("guard").values["consensus"]["producers"])

    def new_probe(engine: Engine) -> None:
        engine.set_probe(*world.samples(420, seed=12), created_at=0.0, source="tests")

    replacements: list[Callable[[Engine], None]] = [
        lambda engine: engine.set_anchor(),
        new_probe,
        lambda engine: engine.roll_back(engine.state()),
    ]
    for replace_it in replacements:
        engine = world.engine()
        world.run(engine, 1, 2)
        assert known(engine)
        replace_it(engine)
        assert not known(engine)


def test_fresh_samples_align_with_what_is_trusted_as_its_own_samples_do() -> None:
    """What is trusted is split by class: a sample that was just left out would see too few of its own class."""
    network, harm = Network(Recipe("mlp", InputSpec((64,), 10, low=0.0, high=1.0))), 6
    above = []
    for seed in range(16):
        x, y = torch.rand(1500, 64, generator=torch.Generator().manual_seed(seed)), torch.arange(1500) % 10
        measurement = Measurement(network, Classification(), GuardConfig(**CALM), None)
        measurement.probe = ProbeSet(x[:500], y[:500], created_at=0.0, source="tests")
        assert measurement.names[harm] == "harm"
        snapshot = taken(network)
        trusted = measurement.trusted(snapshot)
        fresh = measurement.matrix(x[500:], y[500:], network.outputs(x[500:]).detach(), snapshot, trusted.influence)
        own, theirs = trusted.evidence[:, harm], fresh[:, harm]
        above += [
            float((theirs[y[500:] == label][:, None] > own[trusted.labels == label]).float().mean())
            for label in range(10)
        ]
    assert sum(above) / len(above) == pytest.approx(0.5, abs=0.015)
