"""One engine on every rank of a group: rank 0 tells the others what to do, and all do it."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from weir.core import Engine, EngineConfig
from weir.core.group import Group
from weir.core.network import Weights
from weir.core.probe import content
from weir.core.vaccine import Poisoner
from weir.errors import GroupLost
from weir.trainer import messages
from weir.trainer.messages import Message
from weir.trainer.rerun import NewEngine
from weir.trainer.saved import Saved
from weir.types import GuardMode, ProbeInfo, Recipe, SampleVerdict, State, Step, StepReport

logger = logging.getLogger("weir.trainer.conductor")
T = TypeVar("T")


def _nothing(result: object) -> str:
    return ""


class Conductor(Engine):
    """Rank 0's engine: whatever changes it, or needs the other ranks, is told to them first and done by all.

    It raises what an engine raises, the other ranks being where it is then; or GroupLost when one of them is gone, and
    from then on. ``lost`` is called once that happens.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: EngineConfig,
        *,
        group: Group,
        poisoner: Poisoner | None = None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._group = group
        self._lost = lost
        build = super().__init__
        self._together(
            Message("build", recipe.to_values(), {}),
            lambda: build(recipe, config, poisoner=poisoner, clock=time.perf_counter, ranks=group),
        )

    def process(self, step: Step, recorded: Sequence[SampleVerdict] | None = None) -> StepReport:
        """See ``Engine.process``."""
        process = super().process
        return self._together(messages.of_step(step, recorded), lambda: process(step, recorded), outcome)

    def set_probe(self, x: Tensor, y: Tensor, *, created_at: float, source: str) -> ProbeInfo:
        """See ``Engine.set_probe``."""
        change, how = super().set_probe, {"created_at": created_at, "source": source}
        return self._together(
            Message("set_probe", how, {"x": x, "y": y}), lambda: change(x, y, created_at=created_at, source=source)
        )

    def set_mode(self, mode: GuardMode) -> None:
        """See ``Engine.set_mode``."""
        change = super().set_mode
        self._together(Message("set_mode", {"mode": mode.value}, {}), lambda: change(mode))

    def set_anchor(self, weights: Weights | None = None) -> None:
        """See ``Engine.set_anchor``."""
        change = super().set_anchor
        self._together(Message("set_anchor", {"given": weights is not None}, weights or {}), lambda: change(weights))

    def load_state(self, state: State) -> None:
        """See ``Engine.load_state``."""
        change = super().load_state
        self._together(messages.of_state("load_state", state), lambda: change(state))

    def roll_back(self, state: State) -> None:
        """See ``Engine.roll_back``."""
        change = super().roll_back
        self._together(messages.of_state("roll_back", state), lambda: change(state))

    def probe_accuracy(self) -> float | None:
        """See ``Engine.probe_accuracy``."""
        if self.probe is None or self._probe_accuracy is not None:
            return super().probe_accuracy()
        return self._together(Message("probe_accuracy", {}, {}), super().probe_accuracy, str)

    def state(self) -> State:
        """See ``Engine.state``; what goes into a checkpoint is made sure to be the same on every rank."""
        self._together(Message("weights", {}, {}), self.weights, digest)
        return super().state()

    def _together(self, message: Message, call: Callable[[], T], name: Callable[[T], str] = _nothing) -> T:
        try:
            self._group.tell(message.encode())
            return self._group.settled(call, name)
        except GroupLost:
            self._lost()
            raise


def conductors(
    group: Group, config: EngineConfig, poisoner: Poisoner | None, *, lost: Callable[[], None] = lambda: None
) -> NewEngine:
    """Makes engines that the whole group works on, one at a time; see ``Conductor``."""

    def new(state: State) -> Engine:
        engine = Conductor(Saved.of(state).recipe, config, group=group, poisoner=poisoner, lost=lost)
        engine.load_state(state.part("engine"))
        return engine

    return new


def dismiss(group: Group) -> None:
    """Tell the other ranks that this is the end; one that is gone has no need to hear it."""
    with suppress(GroupLost):
        group.tell(Message("end", {}, {}).encode())


def follow(group: Group, config: EngineConfig, poisoner: Poisoner | None) -> None:
    """Do what rank 0 tells, until it says that this is the end; raises GroupLost when it is gone, or another rank."""
    engine: Engine | None = None
    while (message := Message.decode(group.hear())).call != "end":
        try:
            if message.call == "build":
                recipe = Recipe.from_values(message.values)
                engine = group.settled(partial(Engine, recipe, config, poisoner=poisoner, ranks=group))
            else:
                assert engine is not None
                _do(group, engine, message)
        except GroupLost:
            raise
        except Exception as error:  # every rank raised, and rank 0 knows what to do
            logger.warning("%s failed: %s: %s", message.call, type(error).__name__, error)


def outcome(report: StepReport) -> str:
    """All that was decided in a step, in a word."""
    return str(zlib.crc32(repr(replace(report, seconds={}, producers=())).encode()))


def digest(weights: Mapping[str, Tensor]) -> str:
    """All numbers of these tensors, in a word."""
    sum = 0
    for tensor in weights.values():
        sum = zlib.crc32(content(tensor), sum)
    return str(sum)


def _do(group: Group, engine: Engine, message: Message) -> None:
    call, name = CALLS[message.call]
    group.settled(lambda: call(engine, message), name)


def _set_anchor(engine: Engine, message: Message) -> None:
    engine.set_anchor(message.tensors if message.values["given"] else None)


CALLS: dict[str, tuple[Callable[[Engine, Message], Any], Callable[[Any], str]]] = {
    "process": (lambda engine, said: engine.process(said.step, said.recorded), outcome),
    "set_probe": (lambda engine, said: engine.set_probe(said.tensors["x"], said.tensors["y"], **said.values), _nothing),
    "set_mode": (lambda engine, said: engine.set_mode(GuardMode(said.values["mode"])), _nothing),
    "set_anchor": (_set_anchor, _nothing),
    "load_state": (lambda engine, said: engine.load_state(said.state), _nothing),
    "roll_back": (lambda engine, said: engine.roll_back(said.state), _nothing),
    "probe_accuracy": (lambda engine, said: engine.probe_accuracy(), str),
    "weights": (lambda engine, said: engine.weights(), digest),
}
