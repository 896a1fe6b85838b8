"""The newest numbers of every producer, and medians over them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from weir.core.roster import Roster
from weir.types import State

MEMORY = 50.0  # samples of a producer after which older ones have faded
ESTABLISHED = 25.0  # samples that make a producer's mean worth asking
ACTIVE = 100  # steps after which a silent producer has no say in what the world is like now
MOST_ASKED = 200  # producers, the most recent ones
NOBODY = -1


@dataclass(slots=True)
class Recent:
    """Faded sums (k,) of a producer's newest numbers and of their squares; its weight in samples, its last step."""

    sums: Tensor
    squares: Tensor
    weight: float = 0.0
    step: int = 0

    def take(self, sums: Tensor, squares: Tensor, samples: float, step: int) -> None:
        """Add what so many samples of a step come to."""
        kept = min(1.0, max(0.0, MEMORY - samples) / self.weight) if self.weight else 0.0
        self.sums = self.sums * kept + sums
        self.squares = self.squares * kept + squares
        self.weight = self.weight * kept + samples
        self.step = step


class Middle:
    """Medians of the columns of values (n, k), the lower of two, without any one row: sorted once, not each time."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._ordered = values.sort(0).values

    def without(self, rows: Sequence[int | None]) -> Tensor:
        """Medians (m, k) of all rows but one, for each of m; of all for None."""
        n, there = len(self._ordered), torch.tensor([NOBODY if row is None else row for row in rows], dtype=torch.int64)
        # The lower median of the n - 1 others, which a row at or below it makes one place later.
        middle = (n - 2) // 2
        at, later = self._ordered[middle], self._ordered[middle + 1]
        others = torch.where(self._values[there] <= at, later, at)
        return torch.where((there == NOBODY)[:, None], self._ordered[(n - 1) // 2], others)


class Witnesses:
    """The newest numbers of every producer, and what the others of each have in common."""

    def __init__(self, most: int) -> None:
        """``most`` bounds the producers kept, or as many as the last step had."""
        self._most = most
        self._recent: OrderedDict[str, Recent] = OrderedDict()

    def take(self, roster: Roster, rows: Tensor, step: int, *, names: Container[str] | None = None) -> None:
        """Take in the rows (n, k) of a step, without those that are not finite; of these ``names`` alone, if given."""
        finite = rows.isfinite().all(1, keepdim=True)
        sound, nothing = torch.where(finite, rows, 0.0), torch.zeros(rows.shape[1], dtype=torch.float64)
        samples = roster.sums(finite)[:, 0].tolist()
        for name, sums, squares, count in zip(
            roster.rows, roster.sums(sound), roster.sums(sound.square()), samples, strict=True
        ):
            if names is not None and name not in names:
                continue
            self._recent.setdefault(name, Recent(nothing, nothing)).take(sums, squares, count, step)
            self._recent.move_to_end(name)
        while len(self._recent) > max(self._most, len(roster)):
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

    def means(self, names: Iterable[str]) -> Tensor:
        """The means (names, k) of their newest numbers."""
        return means([self._recent[name] for name in names])

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


def means(asked: Sequence[Recent]) -> Tensor:
    """The means (producers, k) of their numbers."""
    return torch.stack([recent.sums for recent in asked]) / _weights(asked)


def spreads(asked: Sequence[Recent]) -> Tensor:
    """The standard deviations (producers, k) of their numbers."""
    squares = torch.stack([recent.squares for recent in asked]) / _weights(asked)
    return (squares - means(asked).square()).clamp_min(0.0).sqrt()


def _weights(asked: Sequence[Recent]) -> Tensor:
    return torch.tensor([recent.weight for recent in asked], dtype=torch.float64)[:, None]
