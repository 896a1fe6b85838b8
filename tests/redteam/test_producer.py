"""A hostile producer against a whole service: over HTTP, with keys of the roles it needs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tests.api.conftest import serving
from tests.redteam.conftest import Field

from weir import config, folder
from weir.api.auth import issue
from weir.client import BatchReport, Client
from weir.codec import load
from weir.errors import Forbidden, InvalidSetting
from weir.redteam.producer import HostileProducer, Units
from weir.redteam.threat import ThreatModel
from weir.serving import running
from weir.stores.base import EntryKind, Role, Stores
from weir.trainer import initialise
from weir.types import Batch, InputSpec

STEP_SIZE = 20
WAIT = 20.0


class Service(NamedTuple):
    """A running service: clients for two roles, and its stores."""

    sender: Client
    spy: Client
    stores: Stores

    def hostile(self, field: Field, *, seed: int = 0) -> HostileProducer:
        """A producer that owns 40 samples, 20 of them for validation."""
        samples = Batch(field.ammunition.x[:40], field.ammunition.y[:40])
        threat = ThreatModel(epsilon=0.3)
        return HostileProducer(
            self.sender, self.spy, samples, threat=threat, validation=20, strike=STEP_SIZE, steps=3, seed=seed
        )

    def publishes(self, report: BatchReport) -> None:
        """Wait until the published model has learned the batch: that is after its verdicts."""
        deadline = time.monotonic() + WAIT
        while self.spy.model().step < (self.spy.batch(report.id).step or 0):
            assert time.monotonic() < deadline

    def received(self) -> list[Batch]:
        """Every delivery in the log."""
        return [load(entry.payload) for entry in self.stores.log.read(0, 100) if entry.kind is EntryKind.BATCH]


@contextmanager
def opened(path: Path, field: Field) -> Iterator[Service]:
    settings = config.load(data=path, step_size=STEP_SIZE, guard={"mode": "off"}, learner={"lr": 0.02, "momentum": 0.9})
    with folder.stores(settings) as stores:
        initialise(stores, field.engine(), at=0.0)
        keys = {}
        for role in (Role.PRODUCER, Role.READER):
            record, keys[role] = issue(f"{role}-1", [role], time.time)
            stores.keys.add(record)
    with (
        running(settings) as served,
        serving(served.app) as address,
        Client(address, keys[Role.PRODUCER]) as sender,
        Client(address, keys[Role.READER]) as spy,
    ):
        yield Service(sender, spy, served.stores)


@pytest.fixture
def service(field: Field, tmp_path: Path) -> Iterator[Service]:
    with opened(tmp_path, field) as service:
        yield service


def test_its_batches_are_learned_and_stay_in_the_budget(service: Service, field: Field) -> None:
    hostile = service.hostile(field)
    reports = [hostile.prepare(STEP_SIZE, wait=WAIT), hostile.strike(wait=WAIT)]
    assert [report.state for report in reports] == ["learned", "learned"]
    clean = field.ammunition.x[20:40]
    for batch in service.received():
        distances = (batch.x[:, None] - clean[None]).abs().flatten(2).amax(2).amin(1)
        assert float(distances.max()) <= 0.3 + 1e-6
        assert float(distances.min()) > 0
        assert float(batch.x.min()) >= 0
        assert float(batch.x.max()) <= 1


def test_every_batch_is_crafted_against_the_weights_of_that_moment(service: Service, field: Field) -> None:
    hostile = service.hostile(field)
    service.publishes(hostile.strike(wait=WAIT))
    hostile.strike(wait=WAIT)
    first, second = service.received()
    assert torch.equal(first.y, second.y)
    assert not torch.equal(first.x, second.x)


def test_equal_seeds_against_equal_weights_send_equal_batches(field: Field, tmp_path: Path) -> None:
    sent = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        with opened(tmp_path / name, field) as service:
            service.hostile(field, seed=seed).prepare(10, wait=WAIT)
            sent.append(service.received()[0])
    assert torch.equal(sent[0].x, sent[1].x)
    assert not torch.equal(sent[0].x, sent[2].x)


def test_without_a_reader_key_there_is_nothing_to_craft_against(service: Service, field: Field) -> None:
    blind = Service(service.sender, service.sender, service.stores)
    with pytest.raises(Forbidden):
        blind.hostile(field).strike(wait=WAIT)
    assert service.received() == []


def test_a_producer_without_samples_to_send_is_refused(service: Service, field: Field) -> None:
    samples = Batch(field.ammunition.x[:30], field.ammunition.y[:30])
    with pytest.raises(InvalidSetting, match="validation"):
        HostileProducer(
            service.sender, service.spy, samples, threat=ThreatModel(epsilon=0.3), validation=20, strike=STEP_SIZE
        )


def test_samples_are_sent_in_the_units_that_they_came_in_and_inside_the_bounds() -> None:
    units = Units(InputSpec((2,), 2, (0.0, -1.0), (10.0, 1.0), (), (5.0, 0.0), (2.0, 0.5)))
    x = torch.tensor([[1.0, 0.25], [9.0, -0.5]])
    torch.testing.assert_close(units.seen(x), torch.tensor([[-2.0, 0.5], [2.0, -1.0]]))
    torch.testing.assert_close(units.sent(units.seen(x)), x)
    torch.testing.assert_close(units.sent(units.seen(x) + 9), torch.tensor([[10.0, 1.0], [10.0, 1.0]]))
    pixels = torch.tensor([[0, 51]], dtype=torch.uint8)
    torch.testing.assert_close(Units(InputSpec((2,), 2, 0.0, 1.0)).seen(pixels), torch.tensor([[0.0, 0.2]]))
