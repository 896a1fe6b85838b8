"""Ranks over ``torch.distributed``: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from weir.core.probe import content
from weir.errors import GroupLost, RankFailed

T = TypeVar("T")
WORDS = 400  # bytes of a failure that the other ranks hear of


class Group:
    """The ranks of ``torch.distributed``'s default group, whose CPU tensors must travel by gloo.

    ``patient`` is a gloo group of the same ranks for what followers wait for while the log is empty: days, it may be.
    Every method raises GroupLost when a rank has ended or left its course, and from then on.
    """

    def __init__(self, patient: dist.ProcessGroup, *, device: str = "cpu") -> None:
        """``device`` is where this rank's rows are worked on."""
        self.size = dist.get_world_size()
        self.rank = dist.get_rank()
        self._device = torch.device(device)
        self._patient = patient
        self.lost = False

    def deal(self, rows: Tensor) -> Tensor:
        """See ``Ranks.deal``."""
        mine = torch.empty((self._share(len(rows)), *rows.shape[1:]), dtype=rows.dtype, device=self._device)
        parts = None
        if self.rank == 0:
            rows = rows.to(self._device)
            parts = [self._of(rank, rows) for rank in range(self.size)]
        with self._sent():
            dist.scatter(mine, parts)
        return mine

    def own(self, rows: Tensor) -> Tensor:
        """See ``Ranks.own``."""
        return self._of(self.rank, rows)

    def counted(self, flags: Tensor) -> Tensor:
        """See ``Ranks.counted``."""
        mine = self.own(flags)
        mine[max(0, len(flags) - self.rank * len(mine)) :] = False
        return mine

    @contextmanager
    def together(self, place: str) -> Iterator[None]:
        """See ``Ranks.together``."""
        error = None
        try:
            yield
        except GroupLost:
            raise
        except Exception as raised:
            error = raised
        self.meet(place, error)

    def gather(self, own: Tensor, n: int) -> Tensor:
        """See ``Ranks.gather``."""
        sent = own.detach().contiguous()
        sent = sent.view(torch.uint8) if own.dtype is torch.bool else sent  # gloo knows no bool
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        with self._sent():
            dist.all_gather(parts, sent)
        return torch.cat(parts)[:n].view(own.dtype)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """See ``Ranks.add``."""
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self._sent():
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def agree(self, tensor: Tensor) -> Tensor:
        """See ``Ranks.agree``."""
        agreed = tensor.detach().contiguous().clone()
        with self._sent():
            dist.broadcast(agreed, src=0)
        return agreed

    def meet(self, place: str, error: Exception | None = None) -> None:
        """Wait for all ranks at a place that they must all have come to.

        Raises the error, or RankFailed when another rank brought one. That all are at the same place is made sure of
        before anything else is sent: a rank that has left its course is noticed, and nobody waits for it.
        """
        mark = zlib.crc32(place.encode())
        flags = torch.tensor([mark, -mark, error is not None])
        with self._sent():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        highest, lowest, failed = flags.tolist()
        if highest != -lowest:
            self.lost = True
            raise GroupLost(f"the ranks have parted: this one came to {place[:WORDS]!r}, others did not") from error
        if failed:
            words = self._words(error)
            raise error or RankFailed(words)

    def settled(self, call: Callable[[], T], name: Callable[[T], str] = lambda result: "") -> T:
        """What a call that every rank makes gives; ``name`` says in a word what of it must be equal everywhere.

        Raises what the call raises, as it does on the other ranks, and GroupLost when that is not so.
        """
        try:
            result = call()
        except GroupLost:
            raise
        except Exception as error:
            self.meet("a failure", error)
            raise
        self.meet(f"a result {name(result)}")
        return result

    def tell(self, message: bytes) -> None:
        """Send a message to all other ranks, as rank 0."""
        payload = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        with self._sent():
            dist.broadcast(torch.tensor([len(payload)]), src=0, group=self._patient)
            dist.broadcast(payload, src=0, group=self._patient)

    def hear(self) -> bytes:
        """The next message of rank 0, however long it takes."""
        length = torch.zeros(1, dtype=torch.int64)
        with self._sent():
            dist.broadcast(length, src=0, group=self._patient)
            payload = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(payload, src=0, group=self._patient)
        return content(payload)

    def _share(self, n: int) -> int:
        return -(-n // self.size)

    def _of(self, rank: int, rows: Tensor) -> Tensor:
        share = self._share(len(rows))
        mine = rows[rank * share : (rank + 1) * share]
        missing = share - len(mine)
        return torch.cat([mine, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else mine.clone()

    def _words(self, error: Exception | None) -> str:
        """The failures of all ranks, in a line."""
        said = f"{type(error).__name__}: {error}".encode()[:WORDS] if error else b""
        mine = torch.frombuffer(bytearray(said.ljust(WORDS)), dtype=torch.uint8)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        with self._sent():
            dist.all_gather(parts, mine)
        heard = [content(part).decode(errors="replace").strip() for part in parts]
        return "; ".join(f"rank {rank}: {words}" for rank, words in enumerate(heard) if words)

    @contextmanager
    def _sent(self) -> Iterator[None]:
        if self.lost:
            raise GroupLost("the group of ranks is lost")
        try:
            yield
        except RuntimeError as error:
            self.lost = True
            raise GroupLost(f"a rank of the group no longer answers: {error}") from error
