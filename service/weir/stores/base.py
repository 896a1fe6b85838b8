"""What the service needs of a store: protocols and the frozen records that pass through them.

Every method is safe to call from any thread. A method that writes returns only when the write is durable, and raises
StorageFailed when it is not known to be: asked again it changes nothing twice. What only the learner writes
(the journal, ``consumed``, ``trim``, the publications, and what is put in quarantine or among the dead letters) raises
Fenced once another learner has taken the log over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from weir.errors import WeirError
from weir.types import SampleRef, SampleVerdict, State


class EntryKind(StrEnum):
    """What a log entry is: a delivery, or a command to the trainer."""

    BATCH = "batch"
    RELEASE = "release"
    ROLLBACK = "rollback"
    CHECKPOINT = "checkpoint"
    PROBE = "probe"
    MODE = "mode"
    REPLAY = "replay"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Entry:
    """One log entry; ``payload`` is safetensors for batches and probes, JSON for other commands."""

    position: int
    id: str
    kind: EntryKind
    producer: str
    samples: int
    payload: bytes
    created_at: float


class Cursor(NamedTuple):
    """The next sample to learn: ``offset`` samples into the first entry past ``position``."""

    position: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A producer's own name for a request; ``digest`` is the SHA-256 of its body, in hex."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is to be appended: an entry that has no place in the log yet."""

    kind: EntryKind
    producer: str
    payload: bytes
    samples: int = 0
    key: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """The deliveries that wait past the consumed position: how many, their bytes, when the first of them came."""

    batches: int
    bytes: int
    oldest_created_at: float | None


class Log(Protocol):
    """The durable, ordered record of deliveries and commands; positions start at 1, go up by 1 and are never reused.

    What ``trim`` has dropped is gone for ``read`` and ``get``; idempotency keys outlive it.
    """

    def append(
        self,
        kind: EntryKind,
        producer: str,
        payload: bytes,
        *,
        samples: int = 0,
        key: IdempotencyKey | None = None,
    ) -> tuple[Entry, bool]:
        """Append durably; returns the entry and whether it is new.

        When the key was seen before that is the first entry, without its payload. Raises LogFull over the bound and
        QuotaExceeded over the producer's share of it (deliveries only: commands always fit), Conflict when the key
        was used with another body.
        """

    def append_all(self, entries: Sequence[NewEntry]) -> list[tuple[Entry, bool] | WeirError]:
        """Append many durably, in their order and at the cost of few: what ``append`` would return or raise for each.

        One that is refused leaves the others as they are.
        """

    def read(self, after: int, limit: int) -> list[Entry]:
        """Up to ``limit`` entries with a position greater than ``after``, in order."""

    def get(self, id: str) -> Entry:
        """The entry with this id; raises NotFound, also for one that was trimmed."""

    def wait(self, after: int, timeout: float) -> bool:
        """Block until an entry past ``after`` exists (True) or ``timeout`` seconds went by (False)."""

    def tail(self) -> int:
        """The last position that was given, 0 when there was none."""

    def consumed(self, position: int) -> None:
        """Say that entries up to ``position`` are in the weights: they no longer count against the bound.

        It never goes back. It is a hint, not a record: after a crash of the machine it may be older, so the learner
        says it again when it starts.
        """

    def backlog(self) -> Backlog:
        """What waits past the last consumed position."""

    def trim(self, through: int, *, keep_bytes: int) -> int:
        """Drop the oldest entries, none past ``through``, until at most ``keep_bytes`` of deliveries are left.

        Returns the floor.
        """

    def floor(self) -> int:
        """The last position that was dropped, 0 when none was: ``read`` from there on gives everything that is left."""

    def rewrite(self, id: str, payload: bytes) -> None:
        """Put other bytes in the place of a payload, durably: this is how erased samples leave the log.

        The entry's other fields stay. Raises NotFound.
        """


Lineage = Sequence[tuple[int, int]]
"""Which steps made some weights: ranges of step numbers, ends included, in order."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided on one cut of the log, before it takes effect.

    A step decision carries one verdict per sample; a command decision carries the entry's id and its result.
    ``end`` is the cursor after it. ``seconds`` and other measurements are never part of it, so that two runs
    over the same log give the same journal.
    """

    step: int
    start: Cursor
    end: Cursor
    refs: Sequence[SampleRef] = ()
    verdicts: Sequence[SampleVerdict] = ()
    updated: bool = False
    vetoed: bool = False
    command: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JournalledSample:
    """One sample's line in the journal."""

    index: int
    step: int
    verdict: SampleVerdict
    rolled_back: bool


class Journal(Protocol):
    """What was decided, written before it takes effect.

    A decision is known by its ``start``, which no two cuts share: recording the same one twice changes nothing.
    """

    def record(self, decision: Decision) -> None:
        """Write one decision durably."""

    def after(self, cursor: Cursor) -> list[Decision]:
        """The decisions that start at or past ``cursor``, in log order."""

    def samples(self, batch: str) -> list[JournalledSample]:
        """What was decided on this batch's samples so far, by index; of two decisions on a sample the later counts."""

    def outcome(self, entry: str) -> Mapping[str, Any] | None:
        """The result of a command entry, or None while it waits."""

    def wait(self, entry: str, samples: int, timeout: float) -> bool:
        """Block until so many ``samples`` of a batch (0: a command) are decided; False after ``timeout`` seconds."""

    def in_weights(self, lineage: Lineage, last: int) -> None:
        """Say which of the steps up to ``last`` are in the weights; the others are rolled back until said otherwise."""

    def trim(self, floor: int) -> None:
        """Drop the decisions that lie wholly at or before a log position; what they said of samples goes with them."""


class HeldState(StrEnum):
    """The life of a quarantined sample."""

    HELD = "held"
    RELEASED = "released"
    RELEASE_VETOED = "release_vetoed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Held:
    """A quarantined sample; ``payload`` is the sample as a safetensors batch of one, as its step took it.

    ``id`` is ``{batch}:{index}``; ``sample_id`` is the producer's own id for it, if it gave one.
    """

    batch: str
    index: int
    producer: str
    label: int
    step: int
    verdict: SampleVerdict
    payload: bytes
    held_at: float
    sample_id: str | None = None
    state: HeldState = HeldState.HELD
    relabel: int | None = None
    resolved_by: str | None = None
    resolved_at: float | None = None
    note: str | None = None

    @property
    def id(self) -> str:
        """``{batch}:{index}``."""
        return f"{self.batch}:{self.index}"


@dataclass(frozen=True, slots=True)
class HeldFilter:
    """Which quarantined samples to list; None means any."""

    state: HeldState | None = None
    producer: str | None = None
    reason: str | None = None
    batch: str | None = None
    label: int | None = None


@dataclass(frozen=True, slots=True)
class QuarantineSize:
    """How much is held for review, and since when."""

    samples: int
    oldest_held_at: float | None


class Quarantine(Protocol):
    """Samples held back for review."""

    def put(self, samples: Iterable[Held]) -> None:
        """Keep samples durably; one that is known by its id stays as it is."""

    def get(self, id: str) -> Held:
        """One sample with its payload; raises NotFound."""

    def page(self, where: HeldFilter, after: str | None, limit: int) -> tuple[list[Held], str | None]:
        """Up to ``limit`` samples in the order they were held (payloads empty), and the cursor of the next page.

        Raises InvalidInput for a cursor that no page gave.
        """

    def move(
        self,
        id: str,
        state: HeldState,
        *,
        expect: Sequence[HeldState],
        by: str | None = None,
        at: float | None = None,
        relabel: int | None = None,
        note: str | None = None,
    ) -> Held:
        """Change a sample's state in one transaction; what is None stays as it was.

        Raises NotFound, and Conflict unless its state is in ``expect``.
        """

    def size(self) -> QuarantineSize:
        """How much is HELD."""

    def held_by(self, producer: str) -> int:
        """How many of this producer's samples are HELD."""

    def expire(self, before: float, *, by: str, at: float, note: str) -> int:
        """Discard what is HELD since before a time, in Unix seconds; returns how many that were."""

    def drop(self, ids: Sequence[str]) -> int:
        """Delete samples for good, whatever their state; returns how many there were."""

    def drop_resolved(self, before: float) -> int:
        """Delete what was released or discarded before a time, in Unix seconds; returns how many that were."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Samples of one batch that could not be processed, however often that was tried; ``payload`` holds them.

    ``id`` is ``{batch}:{first}``; ``error`` is what was raised; ``retried_as`` is the batch they were sent as anew.
    """

    batch: str
    first: int
    samples: int
    producer: str
    step: int
    error: str
    payload: bytes
    at: float
    retried_as: str | None = None

    @property
    def id(self) -> str:
        """``{batch}:{first}``."""
        return f"{self.batch}:{self.first}"


class DeadLetters(Protocol):
    """What could not be processed, until somebody looks at it."""

    def put(self, letter: DeadLetter) -> None:
        """Keep a letter durably; one that is known by its id stays as it is."""

    def get(self, id: str) -> DeadLetter:
        """One letter with its payload; raises NotFound."""

    def page(self, after: str | None, limit: int) -> tuple[list[DeadLetter], str | None]:
        """Up to ``limit`` letters in the order they came (payloads empty), and the cursor of the next page.

        Raises InvalidInput for a cursor that no page gave.
        """

    def retried(self, id: str, batch: str) -> DeadLetter:
        """Note the batch that a letter was sent as anew; raises NotFound, and Conflict when it was sent before."""

    def waiting(self) -> int:
        """How many letters were not sent anew."""

    def drop(self, ids: Sequence[str]) -> int:
        """Delete letters for good; returns how many there were."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who did what to what, and when."""

    at: float
    actor: str
    action: str
    target: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Audit(Protocol):
    """What people did, kept for good."""

    def record(self, record: AuditRecord) -> None:
        """Write one line durably."""

    def recent(self, limit: int) -> list[AuditRecord]:
        """The last ``limit`` lines, newest first."""


class Role(StrEnum):
    """What a key may do."""

    PRODUCER = "producer"
    REVIEWER = "reviewer"
    READER = "reader"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key as it is stored: the SHA-256 of its secret, never the secret."""

    id: str
    name: str
    roles: frozenset[Role]
    digest: str
    created_at: float
    revoked_at: float | None = None


class Keys(Protocol):
    """API keys by id."""

    def add(self, record: KeyRecord) -> None:
        """Keep a key; raises Conflict when its id is taken."""

    def get(self, id: str) -> KeyRecord | None:
        """The key with this id, revoked or not."""

    def all(self) -> list[KeyRecord]:
        """Every key, oldest first."""

    def revoke(self, id: str, at: float) -> None:
        """Revoke a key for good; raises NotFound."""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint's header."""

    id: str
    step: int
    cursor: Cursor
    created_at: float
    bytes: int
    reason: str
    digest: str


class Checkpoints(Protocol):
    """Durable, complete, restorable states, newest last."""

    def save(self, state: State, *, step: int, cursor: Cursor, at: float, reason: str) -> CheckpointInfo:
        """Write a checkpoint atomically and durably, then drop what retention no longer keeps."""

    def all(self) -> list[CheckpointInfo]:
        """The headers, oldest first; damaged ones are left out."""

    def load(self, id: str) -> tuple[CheckpointInfo, State]:
        """One checkpoint, verified; raises NotFound or DamagedCheckpoint."""

    def newest(self) -> tuple[CheckpointInfo, State] | None:
        """The newest checkpoint that verifies (a damaged one is logged and passed over), or None when there are none.

        Raises DamagedCheckpoint when there are checkpoints and none of them verifies.
        """


@dataclass(frozen=True, slots=True)
class Durability:
    """What an acknowledgement is worth: ``relaxed_because`` says, in words, what could lose it; nothing: durable."""

    relaxed_because: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model as the learner published it: ``digest`` is the SHA-256 of ``payload``, in hex, as the learner made it."""

    version: int
    payload: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest word of the learner, the ``mark`` that tells it from others, and its age in seconds.

    Beside it the version of the newest model and the age of that; 0 before there is one.
    """

    word: bytes
    mark: int
    age: float
    version: int = 0
    version_age: float = 0.0


class Publications(Protocol):
    """What the learner lets other processes see: its newest model and its newest word, and nothing older.

    Neither is durable: a store that loses them says so by the version that ``say`` returns, and is given them again.
    Ages are by one clock, the store's.
    """

    def put(self, payload: bytes, digest: str) -> int:
        """Publish a model; returns its version, which is greater than any before. Raises Fenced."""

    def newest(self) -> PublishedModel | None:
        """The newest model, not verified; None before the first."""

    def say(self, word: bytes) -> int:
        """Replace the learner's word; returns the version of the model that is there, 0: none. Raises Fenced."""

    def heard(self) -> Heard | None:
        """The learner's newest word; None before the first."""

    def wait(self, mark: int, timeout: float) -> bool:
        """Block until there is a word with another mark (True) or ``timeout`` seconds went by (False)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What every process of the service works with.

    ``durability()`` is what an acknowledgement is worth now. ``publications`` is None where one process has the
    database to itself.
    """

    log: Log
    journal: Journal
    quarantine: Quarantine
    dead_letters: DeadLetters
    audit: Audit
    keys: Keys
    durability: Callable[[], Durability]
    publications: Publications | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores(Shared):
    """With what is the learner's alone.

    ``candidates`` are the results of replays that are not published: never resumed from. ``owned()`` is a context in
    which this process is the only learner of the log; it raises Conflict while another one is.
    """

    checkpoints: Checkpoints
    candidates: Checkpoints
    owned: Callable[[], AbstractContextManager[None]]
