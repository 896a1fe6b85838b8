"""The bound on a step's harm holds, spares what is harmless, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.core.conftest import PROBE
from torch import Tensor
from torch.nn.functional import cross_entropy

from weir.core import Engine, GuardConfig, LearnerConfig
from weir.core.config import GateConfig
from weir.core.foresight import FEWEST, Foresight, Stride
from weir.core.probe import ProbeSet
from weir.types import GuardMode, StepReport

if TYPE_CHECKING:
    from tests.core.conftest import World

CPU = torch.device("cpu")
CONFIG = GateConfig(tolerance=0.02, decline=0.05, spare=5)


def quadratic(curvature: float, *, slope: float = 0.0, length: float = 0.1) -> tuple[Stride, float]:
    """A step along a parabola with this slope and curvature, and what it really does to the loss."""
    return Stride(length, slope * length), slope * length + curvature * length**2 / 2


def learned(curvature: float = 1.0, *, config: GateConfig = CONFIG, decline: float = 0.0) -> Foresight:
    """Foresight that has met this curvature as often as it must."""
    foresight = Foresight(config)
    for _ in range(FEWEST):
        stride, harm = quadratic(curvature)
        foresight.tested([torch.ones(2)], stride, harm=harm, decline=decline)
    return foresight


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
def test_the_bound_holds_on_a_parabola_however_far_the_gradient_was_measured(curvature: float) -> None:
    foresight, spot, slope = learned(curvature), 0.1, 0.0  # the gradient is of before the last tested step
    for _ in range(20):
        stride = Stride(0.05, slope * 0.05)
        harm = curvature / 2 * ((spot + 0.05) ** 2 - spot**2)
        assert foresight.bound(stride) >= harm
        foresight.taken(stride)
        spot += 0.05


def test_nothing_is_spared_before_the_curvature_is_known() -> None:
    foresight = Foresight(CONFIG)
    for _ in range(FEWEST):
        assert not foresight.spares(Stride(1e-3, 0.0))
        foresight.tested([torch.ones(2)], Stride(0.1, 0.0), harm=1e-6, decline=0.0)
    assert foresight.spares(Stride(1e-3, 0.0))


@pytest.mark.parametrize(
    ("stride", "spared"),
    [
        (Stride(1e-3, 0.0), True),
        (Stride(1e-3, -0.5), True),  # it helps
        (Stride(1e-3, 0.021), False),  # to the first order it hurts too much
        (Stride(0.19, 0.0), False),  # so long that its curvature may hurt too much
        (Stride(0.3, -9.0), False),  # longer than anything tested, whatever it promises
    ],
)
def test_a_step_is_spared_for_what_it_can_do_at_worst(stride: Stride, spared: bool) -> None:
    assert learned().spares(stride) is spared


def test_so_many_steps_in_a_row_and_then_one_is_tested() -> None:
    foresight, stride = learned(1e-6), Stride(1e-3, 0.0)
    for _ in range(CONFIG.spare):
        assert foresight.spares(stride)
        foresight.taken(stride)
    assert not foresight.spares(stride)
    foresight.tested([torch.ones(2)], stride, harm=0.0, decline=0.0)
    assert foresight.spares(stride)


def test_small_harm_adds_up_to_the_decline_that_one_may_do() -> None:
    foresight, stride = learned(1e-6), Stride(1e-3, 0.019)
    assert foresight.spares(stride)
    foresight.taken(stride)
    foresight.taken(stride)
    assert not foresight.spares(stride)
    assert foresight.spares(stride._replace(harm=0.005))
    assert not learned(1e-6, decline=0.04).spares(stride)


def test_a_restart_knows_the_same_and_a_replacement_nothing() -> None:
    foresight, other = learned(), Foresight(CONFIG)
    foresight.taken(Stride(1e-3, 0.001))
    other.load_state(foresight.state(), CPU)
    for stride in (Stride(1e-3, 0.001), Stride(0.05, 0.0)):
        assert other.bound(stride) == foresight.bound(stride) > 0
        assert other.spares(stride) is foresight.spares(stride)
    assert torch.equal(other.gradient[0], torch.ones(2))
    other.forget()
    assert not other.gradient
    assert not other.spares(Stride(1e-3, 0.0))


def run(engine: Engine, world: World, steps: int) -> list[StepReport]:
    return [engine.process(world.step(number, n=50)) for number in range(1, steps + 1)]


def gated(world: World, **gate: Any) -> Engine:
    return world.engine(
        guard=GuardConfig(mode=GuardMode.WEIR, sample_rate=0.01),
        learner=LearnerConfig(lr=0.02, momentum=0.9),
        gate=GateConfig(**gate),
    )


def weights_of(engine: Engine) -> dict[str, Tensor]:
    return dict(engine.weights())


def test_sparing_tests_changes_no_weight_and_no_verdict_of_a_clean_stream(world: World) -> None:
    spared, tested = gated(world, spare=10), gated(world, spare=0)
    few, all_ = run(spared, world, 60), run(tested, world, 60)
    assert [report.verdicts for report in few] == [report.verdicts for report in all_]
    assert all(torch.equal(t, tested.weights()[name]) for name, t in spared.weights().items())
    told = [report.gate.statistic is not None for report in few if report.gate]
    assert sum(told) < 20
    assert all(report.gate and report.gate.statistic is not None for report in all_)


def test_a_spared_step_does_no_more_harm_than_its_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On steps that nobody chose; and to the first order it is what was foreseen."""
    bounds: list[tuple[float, float]] = []
    taken = Foresight.taken

    def watched(foresight: Foresight, stride: Stride) -> None:
        bounds.append((foresight.bound(stride), stride.harm))
        taken(foresight, stride)

    monkeypatch.setattr(Foresight, "taken", watched)
    engine = gated(world, spare=10)
    part = ProbeSet(*world.samples(PROBE, seed=11), created_at=0.0, source="tests").part("gate")
    errors = []
    for number in range(1, 80):
        before, known = cross_entropy(engine.predict(part.x), part.y), len(bounds)
        engine.process(world.step(number, n=50))
        if len(bounds) > known:
            harm = float(cross_entropy(engine.predict(part.x), part.y) - before)
            assert harm <= bounds[-1][0] + 1e-6  # rounding of two means
            errors.append(abs(harm - bounds[-1][1]))
    assert len(errors) > 40
    assert max(errors) < 0.1 * CONFIG.tolerance


def test_a_hostile_step_is_tested_and_undone_in_the_midst_of_spared_ones(world: World) -> None:
    engine = gated(world, spare=31)
    reports = run(engine, world, 40)
    assert reports[-1].gate is not None
    while engine.process(world.step(99, n=50)).gate.statistic is not None:  # type: ignore[union-attr]
        pass
    kept = weights_of(engine)
    x, y = world.samples(50, seed=5)
    hostile = replace(world.of(100, x * 40, (y + 1) % 3), released=True)
    report = engine.process(hostile)
    assert report.vetoed
    assert report.gate is not None
    assert report.gate.statistic is not None
    assert all(torch.equal(tensor, kept[name]) for name, tensor in engine.weights().items())
