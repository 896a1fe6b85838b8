"""A trainer over real stores in a folder, and a stream of blobs to feed it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weir import codec
from weir.core import (
    BurnIn,
    CorrectionConfig,
    Engine,
    EngineConfig,
    GuardConfig,
    LearnerConfig,
    burn_in,
)
from weir.core.vaccine import Poisoner
from weir.stores.base import (
    CheckpointInfo,
    Cursor,
    Decision,
    Durability,
    Entry,
    EntryKind,
    Held,
    HeldFilter,
    Journal,
    Stores,
)
from weir.stores.disk import CheckpointFolder
from weir.stores.sqlite import Sqlite
from weir.trainer import Trainer, TrainerConfig, initialise
from weir.types import Batch, InputSpec, Recipe, SampleVerdict, State

torch.set_num_threads(1)

NOW = 1_700_000_000.0
CLASSES = 3
STEP = 20
PATIENCE = 30.0  # seconds; a test that needs them fails
INPUTS = InputSpec((6,), CLASSES, 0.0, 1.0)
GUARD = GuardConfig(sample_rate=0.02, step_rate=1e-6, producer_rate=1e-6, refresh=2)
CONFIG = EngineConfig(
    learner=LearnerConfig(lr=0.02, momentum=0.9, freeze_norm=False),
    guard=GUARD,
    correction=CorrectionConfig(enabled=True, steps=3),
    step_size=STEP,
)


def noisy(inputs: InputSpec) -> nn.Module:
    """Batch norm that keeps running statistics, and dropout: everything that a step can leave a trace in."""
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, inputs.classes)
    )


def samples(n: int, *, seed: int, flip_every: int = 0) -> tuple[Tensor, Tensor]:
    """n samples of overlapping classes; every ``flip_every``-th carries a wrong label."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    centres = torch.full((CLASSES, 6), 0.3)
    for label in range(CLASSES):
        centres[label, 2 * label : 2 * label + 2] = 0.7
    x = (centres[y] + 0.12 * torch.randn(n, 6, generator=generator)).clamp(0, 1)
    if flip_every:
        y[::flip_every] = (y[::flip_every] + 1) % CLASSES
    return x, y


class House:
    """Stores in a folder, with the trainer that is made over them."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores

    def trainer(
        self,
        *,
        engine: EngineConfig = CONFIG,
        listeners: Sequence[Callable[..., None]] = (),
        stores: Stores | None = None,
        poisoner: Poisoner | None = None,
        **config: Any,
    ) -> Trainer:
        """A trainer that resumes from what is in the folder."""
        settings = TrainerConfig(**({"step_linger_seconds": 0.01} | config))
        held = stores or self.stores
        return Trainer(held, engine, settings, poisoner=poisoner, listeners=listeners, clock=lambda: NOW)

    def drain(self, **how: Any) -> Trainer:
        """Learn everything that is in the log, write a checkpoint and stop."""
        trainer = self.trainer(**how)
        trainer.start()
        trainer.stop(drain_seconds=PATIENCE)
        return trainer

    def crash(self, step: int, **how: Any) -> Trainer:
        """Learn up to ``step`` and die right after it, without a checkpoint."""

        def die(report: Any) -> None:
            if report.step == step:
                raise SystemError("the power went out")

        trainer = self.drain(listeners=[die], **how)
        assert trainer.status.failure is not None
        return trainer

    def post(self, x: Tensor, y: Tensor, *, size: int | None = None, by: str = "ann") -> list[Entry]:
        """Deliver samples in batches of ``size`` (all in one), each with the ids s0, s1, ..."""
        size = size or len(y)
        entries = []
        for at in range(0, len(y), size):
            batch = Batch(
                x[at : at + size], y[at : at + size], tuple(f"s{i}" for i in range(at, min(at + size, len(y))))
            )
            entries.append(self.append(EntryKind.BATCH, codec.encode(batch), samples=len(batch), by=by))
        return entries

    def append(self, kind: EntryKind, payload: bytes, *, samples: int = 0, by: str = "ann") -> Entry:
        """One log entry."""
        entry, _ = self.stores.log.append(kind, by, payload, samples=samples)
        return entry

    def order(self, kind: EntryKind, **order: Any) -> Entry:
        """A command by the admin."""
        return self.append(kind, json.dumps({"by": "adi"} | order).encode(), by="adi")

    def outcome(self, entry: Entry) -> dict[str, Any]:
        """What a command gave."""
        result = self.stores.journal.outcome(entry.id)
        assert result is not None
        return dict(result)

    @property
    def decisions(self) -> list[Decision]:
        """Everything in the journal."""
        return self.stores.journal.after(Cursor())

    @property
    def cuts(self) -> list[int]:
        """How many samples each step took."""
        return [len(decision.refs) for decision in self.decisions if decision.command is None]

    @property
    def verdicts(self) -> list[SampleVerdict]:
        """Every verdict of the steps, in log order."""
        return [v for decision in self.decisions if decision.command is None for v in decision.verdicts]

    @property
    def held(self) -> list[Held]:
        """The quarantine in order, with payloads."""
        found, _ = self.stores.quarantine.page(HeldFilter(), None, 1_000)
        return [self.stores.quarantine.get(sample.id) for sample in found]

    @property
    def held_anonymously(self) -> list[Held]:
        """The quarantine without the batches' random ids."""
        return [replace(sample, batch="", index=0) for sample in self.held]

    @property
    def newest(self) -> tuple[CheckpointInfo, State]:
        """The newest checkpoint."""
        found = self.stores.checkpoints.newest()
        assert found is not None
        return found

    @property
    def bits(self) -> dict[str, bytes]:
        """Everything in the newest checkpoint, as bytes."""
        _, state = self.newest
        held = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
        return held | {"values": json.dumps(dict(state.values)).encode()}


def dying(real: Journal, *, written: bool) -> Journal:
    """A journal with which the process ends, before or after the next record is ``written``."""

    class Dies:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def record(self, decision: Decision) -> None:
            if written:
                real.record(decision)
            raise SystemError("the power went out")

    journal: Journal = Dies()
    return journal


Open = Callable[..., House]


@pytest.fixture(scope="session")
def trained() -> State:
    """An engine after burn-in, with a probe set."""
    engine = burn_in(
        Recipe(f"{__name__}:noisy", INPUTS), CONFIG, *samples(120, seed=10), plan=BurnIn(epochs=8, batch=20)
    )
    engine.set_probe(*samples(300, seed=11), created_at=NOW, source="tests")
    assert engine.unarmed_because is None
    return engine.state()


@contextmanager
def street(place: Path, trained: State) -> Iterator[Open]:
    """Opens houses in folders of their own; each holds the same model after burn-in."""
    with ExitStack() as to_close:

        def opened(name: str = "house", *, keep: int = 20, empty: bool = False) -> House:
            folder = place / name
            folder.mkdir(exist_ok=True)
            database = to_close.enter_context(Sqlite(folder / "weir.db", clock=lambda: NOW))
            house = House(
                Stores(
                    log=database.log,
                    journal=database.journal,
                    quarantine=database.quarantine,
                    dead_letters=database.dead_letters,
                    audit=database.audit,
                    keys=database.keys,
                    checkpoints=CheckpointFolder(folder / "checkpoints", keep),
                    candidates=CheckpointFolder(folder / "candidates", keep),
                    durability=Durability,
                    owned=database.owned,
                )
            )
            if not empty and house.stores.checkpoints.newest() is None:
                engine = Engine(Recipe(f"{__name__}:noisy", INPUTS), CONFIG)
                engine.load_state(trained)
                initialise(house.stores, engine, at=NOW)
            return house

        yield opened


@pytest.fixture
def open_house(tmp_path: Path, trained: State) -> Iterator[Open]:
    """Opens houses in folders of their own; each holds the same model after burn-in."""
    with street(tmp_path, trained) as opened:
        yield opened


@pytest.fixture(scope="module")
def open_shared(tmp_path_factory: pytest.TempPathFactory, trained: State) -> Iterator[Open]:
    """The same, for houses that the tests of a module only look at."""
    with street(tmp_path_factory.mktemp("shared"), trained) as opened:
        yield opened


@pytest.fixture
def house(open_house: Open) -> House:
    """One house."""
    return open_house()


@pytest.fixture(scope="session")
def stream() -> tuple[Tensor, Tensor]:
    """230 samples, every ninth with a wrong label: full steps and a rest."""
    return samples(230, seed=20, flip_every=9)
