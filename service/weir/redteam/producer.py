"""A hostile producer: it knows a service only through the public client, and what its keys let it see."""

from __future__ import annotations

import json

import torch
from torch import nn

from weir.client import BatchReport, Client
from weir.core import build
from weir.errors import InvalidSetting, NotReady
from weir.redteam.accumulative import Accumulative, Trigger
from weir.redteam.attack import Attack
from weir.redteam.threat import ThreatModel
from weir.types import Batch, Recipe


class HostileProducer:
    """Crafts every batch against the weights that the service publishes at that moment, then sends it.

    ``sender`` has the role producer, ``spy`` the role reader. Of ``samples`` (x float32, in the model's units) the
    first ``validation`` stand for what it wants to spoil, and its batches are drawn from the others. Equal seeds and
    equal weights give equal batches.
    """

    def __init__(
        self,
        sender: Client,
        spy: Client,
        samples: Batch,
        *,
        threat: ThreatModel,
        validation: int,
        strike: int,
        steps: int = 10,
        seed: int = 0,
    ) -> None:
        if not 0 < validation <= len(samples) - strike:
            raise InvalidSetting("validation", validation, f"from 1 to {len(samples)} - {strike}")
        self._sender = sender
        self._spy = spy
        self._threat = threat
        self._pool = Batch(samples.x[validation:], samples.y[validation:])
        self._generator = torch.Generator().manual_seed(seed)
        self._ammunition = self._draw(strike)
        self._trigger = Trigger(threat, Batch(samples.x[:validation], samples.y[:validation]), steps)
        self._accumulative = Accumulative(self._trigger, self._ammunition, steps)

    def prepare(self, size: int, *, wait: float) -> BatchReport:
        """Send one batch of the accumulative phase; raises NotReady unless it is learned in ``wait`` seconds."""
        return self._send(self._accumulative, self._draw(size), wait)

    def strike(self, *, wait: float) -> BatchReport:
        """Send the trigger batch; raises NotReady unless it is learned in ``wait`` seconds."""
        return self._send(self._trigger, self._ammunition, wait)

    def _send(self, attack: Attack, batch: Batch, wait: float) -> BatchReport:
        x = self._threat.craft(attack, self._stolen(), batch.x, batch.y)
        report = self._sender.send(x, batch.y, wait=wait)
        if not isinstance(report, BatchReport):
            raise NotReady(f"batch {report.id} was not learned in {wait:g} s")
        return report

    def _stolen(self) -> nn.Module:
        weights, metadata = self._spy.weights()
        model = build(Recipe.from_values(json.loads(metadata["recipe"])))
        model.load_state_dict(weights)
        return model

    def _draw(self, size: int) -> Batch:
        rows = torch.randperm(len(self._pool), generator=self._generator)[:size]
        return Batch(self._pool.x[rows], self._pool.y[rows])
