"""What a run left behind, as values to compare with another run's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.faults.traffic import Acknowledged, content

from weir import codec
from weir.errors import DamagedCheckpoint
from weir.stores.base import Cursor, DeadLetter, Decision, Entry, EntryKind, Held, HeldFilter, JournalledSample, Stores
from weir.types import State

PAGE = 500
SHOWN = 5  # differences of one kind
UNLIKE = {"created_at", "digest", "bytes"}  # of a checkpoint's header: when it was written, and what follows from that


@dataclass(frozen=True, slots=True)
class Run:
    """Everything two runs over the same log must agree on, to the last bit."""

    entries: list[Entry]
    decisions: list[Decision]
    lines: dict[str, list[JournalledSample]]
    held: dict[str, Held]
    letters: dict[str, DeadLetter]
    checkpoints: dict[str, tuple[int, dict[str, str]]]

    @staticmethod
    def read(stores: Stores, *, numbered: bool = True) -> Run:
        """Read what is there; without ``numbered`` a checkpoint is known by its step, not by its number."""
        entries = list(_entries(stores))
        batches = [entry.id for entry in entries if entry.kind is EntryKind.BATCH]
        return Run(
            entries=entries,
            decisions=[_plain(decision, numbered) for decision in stores.journal.after(Cursor())],
            lines={batch: stores.journal.samples(batch) for batch in batches},
            held={sample.id: sample for sample in _held(stores)},
            letters={letter.id: dataclasses.replace(letter, at=0.0) for letter in _letters(stores)},
            checkpoints=_checkpoints(stores, numbered),
        )

    def lost(self, acknowledged: list[Acknowledged]) -> list[str]:
        """The deliveries that were acknowledged, and are not in the log as they were sent."""
        logged = {entry.id: (entry.producer, _content(entry)) for entry in self._batches}
        return [each.id for each in acknowledged if logged.get(each.id) != (each.producer, each.content)]

    def doubled(self) -> list[str]:
        """The samples that more than one step decided on, and the deliveries that are in the log twice."""
        steps = Counter(ref for decision in self.decisions if decision.command is None for ref in decision.refs)
        deliveries = Counter(_content(entry) for entry in self._batches)
        twice = [f"{ref.batch}:{ref.index}" for ref, count in steps.items() if count > 1]
        return twice + [content for content, count in deliveries.items() if count > 1]

    def undecided(self) -> list[str]:
        """The entries of the log that were not brought to their end."""
        decided = Counter(ref.batch for d in self.decisions if d.command is None for ref in d.refs)
        done = {decision.command for decision in self.decisions}
        return [
            entry.id
            for entry in self.entries
            if (decided[entry.id] != entry.samples if entry.kind is EntryKind.BATCH else entry.id not in done)
        ]

    def differences(self, other: Run) -> list[str]:
        """Which parts are not as in the other run, and where it begins, in words."""
        pairs: dict[str, tuple[Mapping[Any, Any], Mapping[Any, Any]]] = {
            "log": ({e.position: e for e in self.entries}, {e.position: e for e in other.entries}),
            "journal": ({d.start: d for d in self.decisions}, {d.start: d for d in other.decisions}),
            "samples of batch": (self.lines, other.lines),
            "quarantine": (_timeless(self.held), _timeless(other.held)),
            "dead letter": (self.letters, other.letters),
        }
        found = [line for name, (mine, others) in pairs.items() for line in _unlike(name, mine, others)]
        return found + list(self._unlike_states(other))

    @property
    def _batches(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.kind is EntryKind.BATCH)

    def _unlike_states(self, other: Run) -> Iterator[str]:
        """Of the checkpoints by their ids, the first one that differs: the step at which the runs parted."""
        if self.checkpoints.keys() != other.checkpoints.keys():
            yield f"checkpoints: only in one run: {sorted(self.checkpoints.keys() ^ other.checkpoints.keys())[:SHOWN]}"
        for id, (step, digests) in sorted(self.checkpoints.items()):
            if id not in other.checkpoints:
                continue
            others = other.checkpoints[id][1]
            parts = [name for name in sorted(digests.keys() | others.keys()) if digests.get(name) != others.get(name)]
            if parts:
                yield f"state: from step {step} (checkpoint {id}): {', '.join(parts)}"
                return


def _unlike(name: str, mine: Mapping[Any, Any], others: Mapping[Any, Any]) -> Iterator[str]:
    keys = [key for key in {**mine, **others} if mine.get(key) != others.get(key)]
    for key in keys[:SHOWN]:
        yield f"{name} {key}: {_contrast(mine.get(key), others.get(key))}"
    if len(keys) > SHOWN:
        yield f"{name}: {len(keys) - SHOWN} more"


def _contrast(one: Any, two: Any) -> str:
    """The fields that differ, or all of what is only on one side."""
    if not dataclasses.is_dataclass(one) or not dataclasses.is_dataclass(two):
        return f"{str(one)[:300]} and not {str(two)[:300]}"
    names = [field.name for field in dataclasses.fields(one)]
    unlike = [name for name in names if getattr(one, name) != getattr(two, name)]
    step = getattr(one, "step", None)
    told = "; ".join(f"{n} {str(getattr(one, n))[:200]} and not {str(getattr(two, n))[:200]}" for n in unlike)
    return told if step is None else f"at step {step}: {told}"


def _plain(decision: Decision, numbered: bool) -> Decision:
    """Without what tells when a checkpoint was written, and how many were written before."""
    hidden = UNLIKE if numbered else UNLIKE | {"id", "checkpoint"}
    result = {name: value for name, value in decision.result.items() if name not in hidden}
    return dataclasses.replace(decision, result=result)


def _timeless(held: Mapping[str, Held]) -> dict[str, Held]:
    """Without when it was held; the payload by its digest."""
    return {
        id: dataclasses.replace(sample, held_at=0.0, payload=hashlib.sha256(sample.payload).digest())
        for id, sample in held.items()
    }


def _entries(stores: Stores) -> Iterator[Entry]:
    after = 0
    while entries := stores.log.read(after, PAGE):
        yield from entries
        after = entries[-1].position


def _held(stores: Stores) -> Iterator[Held]:
    after = None
    while True:
        page, after = stores.quarantine.page(HeldFilter(), after, PAGE)
        for sample in page:
            yield stores.quarantine.get(sample.id)
        if after is None:
            return


def _letters(stores: Stores) -> Iterator[DeadLetter]:
    after = None
    while True:
        page, after = stores.dead_letters.page(after, PAGE)
        for letter in page:
            yield stores.dead_letters.get(letter.id)
        if after is None:
            return


def _checkpoints(stores: Stores, numbered: bool) -> dict[str, tuple[int, dict[str, str]]]:
    """The step of each sound checkpoint, and a digest per part of its state."""
    found = {}
    for info in stores.checkpoints.all():
        with suppress(DamagedCheckpoint):
            name = info.id if numbered else f"{info.step:08d}"
            found[name] = (info.step, _digests(stores.checkpoints.load(info.id)[1]))
    return found


def _digests(state: State) -> dict[str, str]:
    tensors = {
        name: f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(tensor.numpy().tobytes()).hexdigest()}"
        for name, tensor in state.tensors.items()
    }
    return tensors | {f"values/{name}": json.dumps(value, sort_keys=True) for name, value in state.values.items()}


def _content(entry: Entry) -> str:
    batch = codec.load(entry.payload)
    return content(batch.x, batch.y)
