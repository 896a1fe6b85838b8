"""The processes that hold one learner together: each works on its own rows, and after that all know the same."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor


class Ranks(Protocol):
    """What the engine asks of the processes that share its rows.

    Of n rows every rank has ⌈n / size⌉ in order, the last ones filled up with copies of the last row: all work on
    equally many, none of them on none, and what the copies gave is dropped.
    """

    size: int
    rank: int

    def deal(self, rows: Tensor) -> Tensor:
        """This rank's own of rows (n, …) that rank 0 holds; on the others they may be on the device ``meta``."""

    def own(self, rows: Tensor) -> Tensor:
        """This rank's own of rows (n, …) that all ranks hold."""

    def counted(self, flags: Tensor) -> Tensor:
        """This rank's own of flags (n,) bool that all ranks hold, a copy's always False: what counts, counts once."""

    def together(self, place: str) -> AbstractContextManager[None]:
        """What is done inside is done by every rank, or all of them raise: here, or RankFailed elsewhere."""

    def gather(self, own: Tensor, n: int) -> Tensor:
        """All n rows in order, from every rank's own."""

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks; in one message, equal to the last bit everywhere."""

    def agree(self, tensor: Tensor) -> Tensor:
        """The tensor as rank 0 has it: for what may differ in the last bits from one device to another."""


class Alone:
    """A learner in one process."""

    size = 1
    rank = 0

    def deal(self, rows: Tensor) -> Tensor:
        """See ``Ranks.deal``."""
        return rows

    def own(self, rows: Tensor) -> Tensor:
        """See ``Ranks.own``."""
        return rows

    def counted(self, flags: Tensor) -> Tensor:
        """See ``Ranks.counted``."""
        return flags

    def together(self, place: str) -> AbstractContextManager[None]:
        """See ``Ranks.together``."""
        return nullcontext()

    def gather(self, own: Tensor, n: int) -> Tensor:
        """See ``Ranks.gather``."""
        return own

    def add(self, tensors: Sequence[Tensor]) -> None:
        """See ``Ranks.add``."""

    def agree(self, tensor: Tensor) -> Tensor:
        """See ``Ranks.agree``."""
        return tensor


ALONE = Alone()
