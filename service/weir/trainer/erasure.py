"""Erasing a producer's, a batch's or a sample's data for good: from log, quarantine and dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from weir import codec
from weir.stores.base import Entry, EntryKind, Held, HeldFilter, Stores
from weir.trainer.saved import Saved
from weir.types import Verdict

PAGE = 100


@dataclass(frozen=True, slots=True)
class Target:
    """Whose data: exactly one is given; ``sample`` is ``{batch}:{index}``."""

    producer: str | None = None
    batch: str | None = None
    sample: str | None = None

    @staticmethod
    def of(values: Mapping[str, Any]) -> Target:
        """The target that a command names."""
        return Target(values.get("producer"), values.get("batch"), values.get("sample"))

    @property
    def batch_of_sample(self) -> str | None:
        """The batch that the sample is in."""
        return self.sample.rpartition(":")[0] if self.sample else None

    @property
    def index(self) -> int | None:
        """The sample's place in its batch."""
        return int(self.sample.rpartition(":")[2]) if self.sample else None

    def covers(self, producer: str, batch: str) -> bool:
        """Whether a batch has anything to be erased."""
        return producer == self.producer or batch in (self.batch, self.batch_of_sample)


@dataclass(slots=True)
class Found:
    """What there is to erase: samples by batch, and ids."""

    samples: dict[str, set[int]] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)

    def to_values(self) -> dict[str, Any]:
        """In numbers, and the checkpoints whose weights learned from it."""
        return {
            "entries": len(self.samples),
            "samples": sum(map(len, self.samples.values())),
            "quarantine": len(self.held),
            "dead_letters": len(self.letters),
            "checkpoints": self.checkpoints,
        }


def find(stores: Stores, target: Target, through: int) -> Found:
    """What the stores hold of it, as far as it came up to a log position."""
    found = Found()
    for entry in _entries(stores, through):
        if entry.kind is EntryKind.BATCH and target.covers(entry.producer, entry.id):
            kept = codec.load_kept(entry.payload)[1]
            gone = {index for index in kept if target.index in (None, index)}
            if gone:
                found.samples[entry.id] = gone
    found.held = [held.id for held in _held(stores, target)]
    found.letters = list(_letters(stores, target))
    learned = _steps(stores, found)
    for info in stores.checkpoints.all():
        lineage = Saved.of(stores.checkpoints.load(info.id)[1]).lineage
        if any(first <= step <= last for step in learned for first, last in lineage):
            found.checkpoints.append(info.id)
    return found


def erase(stores: Stores, target: Target, through: int) -> None:
    """Erase it; asked again, it finds nothing more."""
    found = find(stores, target, through)
    for batch, indices in found.samples.items():
        stores.log.rewrite(batch, codec.without(stores.log.get(batch).payload, indices))
    stores.quarantine.drop(found.held)
    stores.dead_letters.drop(found.letters)


def _entries(stores: Stores, through: int) -> Iterator[Entry]:
    position = stores.log.floor()
    while entries := stores.log.read(position, PAGE):
        for entry in entries:
            if entry.position > through:
                return
            yield entry
        position = entries[-1].position


def _held(stores: Stores, target: Target) -> Iterator[Held]:
    where = HeldFilter(producer=target.producer, batch=target.batch or target.batch_of_sample)
    after: str | None = None
    while True:
        page, after = stores.quarantine.page(where, after, PAGE)
        yield from (held for held in page if target.index in (None, held.index))
        if after is None:
            return


def _letters(stores: Stores, target: Target) -> Iterator[str]:
    after: str | None = None
    while True:
        page, after = stores.dead_letters.page(after, PAGE)
        # A letter goes whole: its samples were never learned, and nobody can be asked for the others.
        yield from (letter.id for letter in page if target.covers(letter.producer, letter.batch))
        if after is None:
            return


def _steps(stores: Stores, found: Found) -> set[int]:
    """The steps that learned what is to be erased."""
    steps: set[int] = set()
    for batch, indices in found.samples.items():
        for line in stores.journal.samples(batch):
            if line.index in indices and line.verdict.verdict is not Verdict.QUARANTINE:
                steps.add(line.step)
    return steps
