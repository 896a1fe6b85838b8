"""The newest numbers of every producer, and medians over them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from weir.types import State

MEMORY = 50.0  # samples of a producer after which older ones have faded
ESTABLISHED = 25.0  # samples that make a producer's mean worth asking
ACTIVE = 100  # steps after which a silent producer has no say in what the world is like now
MOST_ASKED = 200  # producers, the most recent ones


@dataclass(slots=True)
class Recent:
    """Faded sums (k,) of a producer's newest numbers and of their squares; its weight in samples, its last step."""

    sums: Tensor
    squares: Tensor
    weight: float = 0.0
    step: int = 0

    def take(self, rows: Tensor, step: int) -> None:
        """Add rows (n, k) of a step, without those that are not finite."""
        rows = rows[rows.isfinite().all(1)]
        kept = min(1.0, max(0.0, MEMORY - len(rows)) / self.weight) if self.weight else 0.0
        self.sums = self.sums * kept + rows.sum(0)
        self.squares = self.squares * kept + rows.square().sum(0)
        self.weight = self.weight * kept + len(rows)
        self.step = step

    @property
    def mean(self) -> Tensor:
        """Their mean (k,)."""
        return self.sums / self.weight


class Middle:
    """Medians of the columns of values (n, k), the lower of two, without any one row: sorted once, not each time."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._ordered = values.sort(0).values

    def without(self, row: int | None) -> Tensor:
        """Medians (k,) of all rows but this one; of all for None."""
        n = len(self._ordered)
        if row is None:
            return self._ordered[(n - 1) // 2]
        # The lower median of the n - 1 others, which a row at or below it makes one place later.
        middle = (n - 2) // 2
        at, later = self._ordered[middle], self._ordered[middle + 1]
        return torch.where(self._values[row] <= at, later, at)


class Witnesses:
    """The newest numbers of every producer, and what the others of each have in common."""

    def __init__(self, most: int) -> None:
        """``most`` bounds the producers kept."""
        self._most = most
        self._recent: OrderedDict[str, Recent] = OrderedDict()

    def take(self, name: str, rows: Tensor, step: int) -> None:
        """Take in a producer's rows (n, k) of a step."""
        nothing = torch.zeros(rows.shape[1], dtype=rows.dtype)
        self._recent.setdefault(name, Recent(nothing, nothing)).take(rows, step)
        self._recent.move_to_end(name)
        if len(self._recent) > self._most:
            self._recent.popitem(last=False)

    def knows(self, name: str, step: int) -> bool:
        """Whether a producer was heard of lately."""
        return name in self._recent and step - self._recent[name].step <= ACTIVE

    def copy(self, name: str) -> Recent | None:
        """What is known of a producer, None where that is nothing."""
        return replace(self._recent[name]) if name in self._recent else None

    def put_back(self, known: Mapping[str, Recent | None]) -> None:
        """Replace what is known of some producers by copies made earlier."""
        for name, recent in known.items():
            if recent is None:
                self._recent.pop(name, None)
            else:
                self._recent[name] = replace(recent)

    def mean(self, name: str) -> Tensor:
        """The mean (k,) of a producer's newest numbers."""
        return self._recent[name].mean

    def asked(self, step: int) -> dict[str, Recent]:
        """Who has a say, the most recent first."""
        newest = islice(reversed(self._recent.items()), MOST_ASKED)
        return {
            name: recent for name, recent in newest if recent.weight >= ESTABLISHED and step - recent.step <= ACTIVE
        }

    def state(self) -> State:
        """Everything a restart needs."""
        values = {"producers": [[name, recent.weight, recent.step] for name, recent in self._recent.items()]}
        if not self._recent:
            return State({}, values)
        sums, squares = (
            torch.stack([getattr(recent, name) for recent in self._recent.values()]) for name in ("sums", "squares")
        )
        return State({"sums": sums, "squares": squares}, values)

    def load_state(self, state: State) -> None:
        """Replace what is known of every producer."""
        self._recent = OrderedDict(
            (name, Recent(state.tensors["sums"][row].clone(), state.tensors["squares"][row].clone(), weight, step))
            for row, (name, weight, step) in enumerate(state.values["producers"])
        )

    def forget(self) -> None:
        """Forget every producer."""
        self._recent.clear()


def means_and_spreads(asked: Sequence[Recent]) -> tuple[Tensor, Tensor]:
    """The means (producers, k) of their numbers, and the standard deviations."""
    weights = torch.tensor([recent.weight for recent in asked], dtype=torch.float64)[:, None]
    means = torch.stack([recent.sums for recent in asked]) / weights
    squares = torch.stack([recent.squares for recent in asked]) / weights
    return means, (squares - means.square()).clamp_min(0.0).sqrt()
