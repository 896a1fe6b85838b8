"""A hostile producer: it knows a service only through the public client, and what its keys let it see."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from weir.client import BatchReceipt, BatchReport, Client
from weir.core import build
from weir.core.preparation import Preparation
from weir.errors import InvalidSetting, NotReady
from weir.redteam.accumulative import Accumulative, Trigger
from weir.redteam.attack import Attack
from weir.redteam.corruption import Corruption
from weir.redteam.threat import Knowledge, ThreatModel
from weir.types import Batch, InputSpec, Recipe

_CPU = torch.device("cpu")


class Units:
    """Samples as a model sees them and as they are sent: with the centre and scale of its inputs, and without."""

    def __init__(self, inputs: InputSpec) -> None:
        self._preparation = Preparation(inputs, _CPU)
        self._center = _feature_wise(inputs.center, inputs.shape, 0.0)
        self._scale = _feature_wise(inputs.scale, inputs.shape, 1.0)

    def seen(self, x: Tensor) -> Tensor:
        """Samples (n, ...) uint8 or float as the model sees them (n, *shape) float32."""
        return self._preparation(x)

    def sent(self, x: Tensor) -> Tensor:
        """Samples (n, *shape) in the model's units as a producer sends them, inside the data bounds."""
        bounded = x.clone()
        if self._preparation.low is not None:
            bounded = torch.maximum(bounded, self._preparation.low)
        if self._preparation.high is not None:
            bounded = torch.minimum(bounded, self._preparation.high)
        return bounded * self._scale + self._center


def stolen(spy: Client) -> tuple[nn.Module, Recipe]:
    """The published model in eval mode, and how it is built; the key needs the role reader."""
    weights, metadata = spy.weights()
    recipe = Recipe.from_values(json.loads(metadata["recipe"]))
    model = build(recipe)
    model.load_state_dict(weights)
    return model.eval(), recipe


class Courier:
    """Corrupts every batch on its way, against the weights that the service publishes at that moment.

    ``sender`` has the role producer; ``spy`` the role reader, and is not asked for what needs no weights. Samples are
    in the model's units, float32; ``units`` say how those are sent.
    """

    def __init__(self, sender: Client, spy: Client | None, units: Units | None = None) -> None:
        self.sender = sender
        self._spy = spy
        self._units = units

    def deliver(
        self, batch: Batch, corruption: Corruption, *, wait: float, order: Tensor | None = None
    ) -> BatchReceipt | BatchReport:
        """Send a batch, its rows in another ``order`` if given; a BatchReport if it is decided within ``wait`` seconds.

        Raises InvalidSetting where the weights are needed and there is nobody to read them.
        """
        x, y = corruption.applied(self._victim(corruption.threat.knowledge), batch.x, batch.y)
        x = self._units.sent(x) if self._units else x
        rows = torch.arange(len(y)) if order is None else order
        return self.sender.send(x[rows], y[rows], wait=wait)

    def _victim(self, knowledge: Knowledge) -> nn.Module:
        if knowledge is Knowledge.NOTHING:
            return nn.Identity()
        if self._spy is None:
            raise InvalidSetting("spy", None, "a client whose key has the role reader: this attack needs the weights")
        return stolen(self._spy)[0]


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
        self._courier = Courier(sender, spy)
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
        report = self._courier.deliver(batch, Corruption(self._threat, attack), wait=wait)
        if not isinstance(report, BatchReport):
            raise NotReady(f"batch {report.id} was not learned in {wait:g} s")
        return report

    def _draw(self, size: int) -> Batch:
        rows = torch.randperm(len(self._pool), generator=self._generator)[:size]
        return Batch(self._pool.x[rows], self._pool.y[rows])


def _feature_wise(values: tuple[float, ...] | None, shape: tuple[int, ...], usual: float) -> Tensor:
    return torch.tensor(usual) if values is None else torch.tensor(values).reshape(shape)
