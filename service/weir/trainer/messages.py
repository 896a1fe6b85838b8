"""What rank 0 tells the others, as bytes: the name of a call, and what it is given as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weir import codec
from weir.stores import verdicts
from weir.types import SampleVerdict, State, Step


class Message(NamedTuple):
    """A call by its name, with tensors and JSON-ready values."""

    call: str
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def encode(self) -> bytes:
        """The message as bytes."""
        return codec.encode_tensors(self.tensors, {"call": self.call, "values": json.dumps(self.values)})

    @staticmethod
    def decode(payload: bytes) -> Message:
        """The message that ``encode`` wrote."""
        tensors, said = codec.decode_tensors(payload)
        return Message(said["call"], json.loads(said["values"]), tensors)

    @property
    def state(self) -> State:
        """What ``of_state`` was given."""
        return State(self.tensors, self.values)

    @property
    def step(self) -> Step:
        """The step that ``of_step`` was given, without the numbers of its x, which are dealt out, and its refs."""
        x = torch.empty(self.values["shape"], dtype=getattr(torch, self.values["dtype"]), device="meta")
        number, producers, (released, forced) = (self.values[name] for name in ("number", "producers", "how"))
        return Step(number, x, self.tensors["y"], (), producers, released, forced)

    @property
    def recorded(self) -> Sequence[SampleVerdict] | None:
        """The verdicts that ``of_step`` was given."""
        packed = self.values["recorded"]
        return None if packed is None else verdicts.unpack(packed)


def of_state(call: str, state: State) -> Message:
    """A call that is given a state."""
    return Message(call, state.values, state.tensors)


def of_step(step: Step, recorded: Sequence[SampleVerdict] | None) -> Message:
    """A step that is to be processed."""
    values = {
        "number": step.number,
        "producers": list(step.producers),
        "how": [step.released, step.forced],
        "shape": list(step.x.shape),
        "dtype": str(step.x.dtype).removeprefix("torch."),
        "recorded": None if recorded is None else verdicts.pack(recorded),
    }
    return Message("process", values, {"y": step.y})
