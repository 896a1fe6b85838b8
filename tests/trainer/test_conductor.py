"""An engine that every rank has: rank 0 calls it as any other, and the others follow."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.conftest import INPUTS, MLP, World
from tests.ranks import run
from torch import Tensor, nn

from weir.core import Engine
from weir.core.group import Group
from weir.errors import GroupLost, InvalidProbe, RankFailed
from weir.stores.base import Entry, EntryKind
from weir.trainer import commands
from weir.trainer.conductor import Conductor, conductors, digest, dismiss, follow
from weir.trainer.messages import Message, of_state, of_step
from weir.trainer.rerun import NewEngine, engines
from weir.trainer.saved import Saved
from weir.types import GuardMode, Reason, Recipe, SampleVerdict, State, Verdict

CONFIG = World().config()


class Brittle(nn.Sequential):
    """A model that some samples break."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 5).any()):
            raise ValueError("a value above 5")
        for layer in self:
            x = layer(x)
        return x


def brittle(inputs: Any) -> nn.Module:
    return Brittle(nn.Linear(6, inputs.classes))


BRITTLE = Recipe(f"{__name__}:brittle", INPUTS)


def saved(recipe: Recipe = MLP) -> State:
    """A checkpoint's state, of an engine after burn-in where it is the usual one."""
    return Saved(recipe).with_engine(World().engine() if recipe == MLP else Engine(recipe, CONFIG))


def played(new: NewEngine, state: State) -> list[Any]:
    """Every call, and what is to be seen of it; the engine is the group's or one of its own."""
    world, engine = World(), new(state)
    seen: list[Any] = []
    seen.append([v.verdict for v in engine.process(world.step(1, n=7, flipped=2)).verdicts])
    before = engine.state()
    with pytest.raises(InvalidProbe):
        engine.set_probe(*world.samples(3, seed=1), created_at=0.0, source="too small")
    seen.append(engine.set_probe(*world.samples(420, seed=5), created_at=1.0, source="new").version)
    seen.append(engine.probe_accuracy())
    engine.set_mode(GuardMode.OBSERVE)
    seen.append([v.verdict for v in engine.process(world.step(2, n=1, flipped=1)).verdicts])
    engine.set_mode(GuardMode.WEIR)
    engine.set_anchor()
    engine.set_anchor(engine.weights())
    recorded = [SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE)] + [SampleVerdict(Verdict.ACCEPT, Reason.CLEAN)] * 4
    seen.append(engine.process(world.step(3, n=5), recorded).loss)
    released = replace(world.step(4, n=3), released=True, forced=True)
    seen.append(engine.process(released).updated)
    engine.roll_back(before)
    seen.append(engine.updates)
    seen.append([v.verdict for v in engine.process(world.step(5, n=30, flipped=3)).verdicts])
    engine.load_state(before)
    seen.append(engine.process(world.step(6, n=20)).loss)
    return [*seen, torch.cat([t.flatten() for t in engine.weights().values()]).tolist()]


def dismissed(group: Group) -> str:
    """Follow to the end."""
    follow(group, CONFIG, None)
    return "dismissed"


def conducted(group: Group) -> Any:
    """Rank 0 plays, the other follows."""
    if group.rank:
        return dismissed(group)
    try:
        return played(conductors(group, CONFIG, None), saved())
    finally:
        dismiss(group)


def test_whatever_changes_an_engine_changes_that_of_every_rank() -> None:
    seen, follower = run(2, conducted)
    assert follower == "dismissed"
    assert not isinstance(seen, Exception), seen
    alone = played(engines(CONFIG, None), saved())
    for ours, theirs in zip(seen, alone, strict=True):
        assert ours == (theirs if not isinstance(theirs, float | list) else pytest.approx(theirs, abs=1e-5))


def timed(group: Group) -> Any:
    """What the stages of a step took on rank 0."""
    if group.rank:
        return dismissed(group)
    took = conductors(group, CONFIG, None)(saved()).process(World().step(1, n=7)).seconds
    dismiss(group)
    return took


def test_rank_0_says_how_long_every_stage_took() -> None:
    took, _ = run(2, timed)
    assert {"score", "guard", "learn"} <= set(took)
    assert all(seconds > 0 for seconds in took.values())


def broken(group: Group) -> Any:
    """A sample that breaks the model on rank 1, then one on rank 0, then none."""
    if group.rank:
        return dismissed(group)
    engine, world, said = conductors(group, CONFIG, None)(saved(BRITTLE)), World(), []
    for row in (3, 0, None):
        step = world.step(1, n=4)
        if row is not None:
            step.x[row] = 9.0
        try:
            said.append(str(engine.process(step).updated))
        except (ValueError, RankFailed) as error:
            said.append(f"{type(error).__name__}: {error}")
    dismiss(group)
    return said


def test_a_sample_that_one_rank_cannot_process_is_everyones_error_and_the_group_goes_on() -> None:
    said, follower = run(2, broken)
    assert follower == "dismissed"
    assert said == ["RankFailed: rank 1: ValueError: a value above 5", "ValueError: a value above 5", "True"]


def astray(group: Group) -> Any:
    """The follower's weights come to differ by a bit, as those of a defective device might."""
    if group.rank:
        group.hear()
        engine = group.settled(lambda: Engine(World().recipe, CONFIG, ranks=group))
        group.hear()
        group.settled(lambda: engine.load_state(Message.decode(of_state("", saved().part("engine")).encode()).state))
        with torch.no_grad():
            next(engine.network.module.parameters()).view(-1)[0] += 1e-7
        group.hear()
        group.settled(engine.weights, digest)
        return None
    calls: list[str] = []
    engine = conductors(group, CONFIG, None, lost=lambda: calls.append("lost"))(saved())
    for _ in range(2):
        with pytest.raises(GroupLost):
            engine.state()
    return calls


def test_a_checkpoint_is_of_weights_that_all_ranks_have() -> None:
    calls, follower = run(2, astray)
    assert calls == ["lost", "lost"]
    assert isinstance(follower, GroupLost)


def test_a_step_travels_without_the_numbers_of_its_x() -> None:
    step = replace(World().step(7, n=3), released=True)
    verdicts = [SampleVerdict(Verdict.ACCEPT, Reason.CLEAN, 0.1, None, float("nan"))] * 3
    payload = of_step(step, verdicts).encode()
    heard = Message.decode(payload)
    assert len(payload) < 1_000
    assert heard.step.x.is_meta
    assert (heard.step.x.shape, heard.step.x.dtype) == (step.x.shape, step.x.dtype)
    assert torch.equal(heard.step.y, step.y)
    assert (heard.step.number, heard.step.producers, heard.step.released) == (7, ["ann"] * 3, True)
    assert heard.recorded is not None
    assert repr(list(heard.recorded)) == repr(verdicts)
    assert Message.decode(of_step(step, None).encode()).recorded is None


def deserted(group: Group) -> Any:
    """The follower is gone when a command is carried out."""
    if group.rank:
        group.hear()
        group.settled(lambda: Engine(MLP, CONFIG, ranks=group))
        return None
    host: Any = SimpleNamespace(engine=Conductor(MLP, CONFIG, group=group))
    commands.run(host, Entry(1, "c1", EntryKind.MODE, "admin", 0, b'{"mode": "observe"}', 0.0), None)
    return "carried out"


def test_a_command_that_meets_a_lost_group_has_no_outcome_so_that_it_is_done_after_the_restart() -> None:
    answer, _ = run(2, deserted)
    assert isinstance(answer, GroupLost)
