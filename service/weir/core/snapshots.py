"""Historical models for the guard: a ring by age, and one trusted anchor outside it."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch

from weir.core.arithmetic import scoring
from weir.core.config import SnapshotConfig
from weir.core.layout import like
from weir.core.network import Weights
from weir.types import Arithmetic, State


class Snapshot(NamedTuple):
    """A historical model and the number of updates it had seen; ``scoring`` are its weights as it scores with them.

    Those of the ring's score as they are: how little they differ from the current model is less than a rounding.
    """

    updates: int
    weights: Weights
    scoring: Weights


class Snapshots:
    """The ring and the anchor; the anchor is never replaced by what streams in.

    Admitted poison ages into the ring, so the default reference is the anchor.
    """

    def __init__(
        self,
        config: SnapshotConfig,
        *,
        arithmetic: Arithmetic = Arithmetic.FLOAT32,
        layout: torch.memory_format = torch.preserve_format,
    ) -> None:
        """``arithmetic`` is what the anchor scores in, once that is decided, ``layout`` that of its weights then."""
        self._config = config
        self._arithmetic = arithmetic
        self._layout = layout
        self._ring: deque[Snapshot] = deque(maxlen=-(-config.lag // config.every) + 1 if config.lag else 0)
        self.anchor: Snapshot | None = None

    def record(self, updates: int, weights: Weights) -> None:
        """Keep a copy of the model as it is after ``updates`` updates."""
        self._ring.append(Snapshot(updates, weights, weights))

    def trust(self, updates: int, weights: Weights) -> None:
        """Make a model the anchor."""
        self.anchor = Snapshot(updates, weights, scoring(weights, self._arithmetic, self._layout))

    def forget_after(self, updates: int) -> None:
        """Drop what the ring holds of a future that has been undone."""
        kept = [snapshot for snapshot in self._ring if snapshot.updates <= updates]
        self._ring.clear()
        self._ring.extend(kept)

    def due(self, updates: int) -> bool:
        """Whether the ring wants a snapshot now."""
        return self._config.lag is not None and updates % self._config.every == 0

    def reference(self) -> Snapshot | None:
        """The snapshot to measure discrepancy against: the ring's oldest, or the anchor when no lag is set.

        While the ring fills up its oldest is younger than the lag, at first the current model itself: until then
        the anchor serves, for a guard that compares a model with itself is blind.
        """
        if self._config.lag is None or len(self._ring) < (self._ring.maxlen or 0):
            return self.anchor
        return self._ring[0]

    def state(self) -> State:
        """Everything a restart needs."""
        held = {"anchor": self.anchor} if self.anchor else {}
        held |= {f"ring{index}": snapshot for index, snapshot in enumerate(self._ring)}
        tensors = {f"{slot}/{name}": t for slot, snapshot in held.items() for name, t in snapshot.weights.items()}
        return State(tensors, {slot: snapshot.updates for slot, snapshot in held.items()})

    def load_state(self, state: State, own: Weights) -> None:
        """Replace ring and anchor, laid out as a model has its ``own`` weights; a shorter ring keeps the newest."""
        self._ring.clear()
        self.anchor = None
        for slot, updates in state.values.items():
            weights = {name: like(tensor, own[name]) for name, tensor in state.part(slot).tensors.items()}
            if slot == "anchor":
                self.trust(updates, weights)
            else:
                self.record(updates, weights)
