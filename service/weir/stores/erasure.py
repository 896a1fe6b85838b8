"""What the stores hold of a producer, a batch or a sample, and how it is erased for good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from weir import codec
from weir.stores.base import DeadLetter, Entry, EntryKind, Held, HeldFilter, Shared

ENTRIES = 8  # a page of the log carries its payloads, and one may be as large as a body
LINES = 500


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
    """What there is to erase: indices of samples by batch in the log, ids in quarantine and of dead letters."""

    samples: dict[str, set[int]] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)

    def to_values(self) -> dict[str, Any]:
        """In numbers."""
        return {
            "entries": len(self.samples),
            "samples": sum(map(len, self.samples.values())),
            "quarantine": len(self.held),
            "dead_letters": len(self.letters),
        }


def find(stores: Shared, target: Target, through: int) -> Found:
    """What the stores hold of it, as far as it came up to a log position."""
    found = Found()
    for entry in _entries(stores, through):
        if entry.kind is EntryKind.BATCH and target.covers(entry.producer, entry.id):
            gone = {index for index in codec.load_kept(entry.payload)[1] if target.index in (None, index)}
            if gone:
                found.samples[entry.id] = gone
    found.held = [held.id for held in _held(stores, target)]
    found.letters = list(_letters(stores, target))
    return found


def erase(stores: Shared, target: Target, through: int) -> None:
    """Erase it; asked again, it finds nothing more."""
    found = find(stores, target, through)
    for batch, indices in found.samples.items():
        stores.log.rewrite(batch, codec.without(stores.log.get(batch).payload, indices))
    stores.quarantine.drop(found.held)
    stores.dead_letters.drop(found.letters)


def _entries(stores: Shared, through: int) -> Iterator[Entry]:
    position = stores.log.floor()
    while entries := stores.log.read(position, ENTRIES):
        for entry in entries:
            if entry.position > through:
                return
            yield entry
        position = entries[-1].position


def _held(stores: Shared, target: Target) -> Iterator[Held]:
    where = HeldFilter(producer=target.producer, batch=target.batch or target.batch_of_sample)
    after: str | None = None
    while True:
        page, after = stores.quarantine.page(where, after, LINES)
        yield from (held for held in page if target.index in (None, held.index))
        if after is None:
            return


def _letters(stores: Shared, target: Target) -> Iterator[str]:
    after: str | None = None
    while True:
        page, after = stores.dead_letters.page(after, LINES)
        # A letter goes whole: its samples were never learned, and nobody can be asked for the others.
        yield from (letter.id for letter in page if _covers(target, letter))
        if after is None:
            return


def _covers(target: Target, letter: DeadLetter) -> bool:
    within = target.index is None or letter.first <= target.index < letter.first + letter.samples
    return within and target.covers(letter.producer, letter.batch)
