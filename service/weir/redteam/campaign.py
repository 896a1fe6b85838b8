"""An attack against a running service, from the first batch to what became of them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic, sleep

import torch
from torch import Tensor, nn

from weir.client import BatchReport, Client
from weir.core.network import Weights
from weir.datasets import Dataset
from weir.errors import InvalidInput, InvalidSetting
from weir.redteam.backdoor import success_rate
from weir.redteam.catalogue import CATALOGUE, Arms, Entry
from weir.redteam.producer import Courier, Units, stolen
from weir.redteam.threat import Knowledge
from weir.types import Batch, InputSpec, Verdict

LEAST = 40  # samples
HELD_OUT, VALIDATION = 1000, 400  # at most
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch that the service took, by whom it was sent, and which of its samples (n,) bool are hostile."""

    id: str
    sender: Client
    hostile: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What was sent and what became of it, in samples; ``states`` counts batches, ``vetoed`` steps.

    What only a reader may see is None without one. Accuracy is that of the published model on the attacker's own
    held-out samples, success the share of them that a backdoor turns into its class.
    """

    batches: int
    samples: int
    hostile: int
    accepted: int
    corrected: int
    held: int
    pending: int
    hostile_held: int | None
    states: dict[str, int]
    vetoed: int | None
    accuracy_before: float | None
    accuracy_after: float | None
    success_before: float | None = None
    success_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Which attack, how much of it, and how patiently; for the rest see Arms.

    ``wait`` bounds, in seconds, the wait for the verdicts of one batch. Raises InvalidSetting for an attack that does
    not exist.
    """

    attack: str
    batches: int = 20
    size: int = 25
    epsilon: float | None = None
    fraction: float | None = None
    penalty: float = 1.0
    wait: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.attack not in CATALOGUE:
            raise InvalidSetting("attack", self.attack, f"one of {', '.join(CATALOGUE)}")

    @property
    def entry(self) -> Entry:
        """The attack in the catalogue."""
        return CATALOGUE[self.attack]

    def arms(self, inputs: InputSpec, samples: Batch, validation: Batch, *, producers: int, weights: Weights) -> Arms:
        """What the attacker brings; the weights that it finds at its start stand for the guard's historical ones."""
        return Arms(
            inputs=inputs,
            samples=samples,
            validation=validation,
            batches=self.batches,
            size=self.size,
            producers=producers,
            epsilon=self.epsilon,
            fraction=self.fraction,
            penalty=self.penalty,
            historical=weights,
            seed=self.seed,
        )


class Campaign:
    """Senders deliver an attack's batches in turn; ``spy`` reads what the published model makes of held-out samples.

    Of ``data`` a quarter is held out and an eighth is what the attack wants to spoil. Without a ``spy`` no weights, no
    accuracy and no vetoes are known. Raises InvalidInput for data that the model does not take, InvalidSetting for
    orders that do not fit, among them an attack that needs the weights without a spy.
    """

    def __init__(self, orders: Orders, data: Dataset, senders: Sequence[Client], spy: Client | None) -> None:
        if spy is None and orders.entry.knowledge is not Knowledge.NOTHING:
            raise InvalidSetting(
                "spy_key_file", None, f"a key with the role reader: {orders.attack} needs the model's weights"
            )
        self._orders = orders
        self._spy = spy
        weights, inputs = _known(spy, data)
        self._units = Units(inputs)
        _check(data, inputs)
        held_out, validation, samples = self._dealt(data)
        self._held_out = held_out
        self._couriers = [Courier(sender, spy, self._units) for sender in senders]
        arms = orders.arms(inputs, samples, validation, producers=len(senders), weights=weights)
        self._deliveries = orders.entry.make(arms)
        self._sent: list[Sent] = []
        self._patch = orders.entry.patch(inputs) if orders.entry.patch else None
        self._accuracy_before, self._success_before, self._vetoes_before = *self._judged(), self._vetoes()

    def __len__(self) -> int:
        return self._orders.batches

    @property
    def sent(self) -> int:
        """How many batches the service took so far."""
        return len(self._sent)

    def run(self) -> Iterator[Sent]:
        """Send every batch; each counts before it comes out here."""
        for number, delivery in enumerate(self._deliveries):
            courier = self._couriers[number % len(self._couriers)]
            order = self._order(number, len(delivery.batch))
            receipt = courier.deliver(delivery.batch, delivery.corruption, wait=self._orders.wait, order=order)
            count = delivery.corruption.threat.hostile(len(order)) if delivery.corruption.hostile else 0
            self._sent.append(Sent(receipt.id, courier.sender, order < count))
            yield self._sent[-1]

    def tally(self) -> Tally:
        """What became of all that was sent, as far as it is decided after one more ``wait``."""
        deadline = monotonic() + self._orders.wait
        reports = [self._decided(sent, deadline) for sent in self._sent]
        self._learned(max((report.step or 0 for report in reports), default=0), deadline)
        counts, vetoes = [report.counts for report in reports], self._vetoes()
        accuracy, success = self._judged()
        return Tally(
            batches=len(reports),
            samples=sum(report.samples for report in reports),
            hostile=sum(int(sent.hostile.sum()) for sent in self._sent),
            accepted=sum(count.accept for count in counts),
            corrected=sum(count.correct for count in counts),
            held=sum(count.quarantine for count in counts),
            pending=sum(count.pending for count in counts),
            hostile_held=self._hostile_held(reports),
            states=dict(Counter(report.state for report in reports)),
            vetoed=None if vetoes is None or self._vetoes_before is None else vetoes - self._vetoes_before,
            accuracy_before=self._accuracy_before,
            accuracy_after=accuracy,
            success_before=self._success_before,
            success_after=success,
        )

    def _dealt(self, data: Dataset) -> tuple[Batch, Batch, Batch]:
        """The data in the model's units: held out, for validation, and to send."""
        held_out, validation = min(HELD_OUT, len(data) // 4), min(VALIDATION, len(data) // 8)
        parts = data.split(held_out, validation, len(data) - held_out - validation, seed=self._orders.seed)
        first, second, third = (Batch(self._units.seen(part.x), part.y) for part in parts)
        return first, second, third

    def _decided(self, sent: Sent, deadline: float) -> BatchReport:
        reader = self._spy or sent.sender
        report = reader.batch(sent.id)
        while report.counts.pending and monotonic() < deadline:
            sleep(POLL_SECONDS)
            report = reader.batch(sent.id)
        return report

    def _learned(self, step: int, deadline: float) -> None:
        """Wait until the published model has seen a step: it follows the verdicts."""
        while self._spy and (self._spy.model().published_step or 0) < step and monotonic() < deadline:
            sleep(POLL_SECONDS)

    def _hostile_held(self, reports: Sequence[BatchReport]) -> int | None:
        if self._spy is None:
            return None
        held = 0
        for sent, report in zip(self._sent, reports, strict=True):
            rows = [v.index for v in report.verdicts or () if v.verdict is Verdict.QUARANTINE]
            held += int(sent.hostile[torch.tensor(rows, dtype=torch.int64)].sum())
        return held

    def _judged(self) -> tuple[float | None, float | None]:
        """Accuracy of the published model on the held-out samples, and a backdoor's success on them."""
        if self._spy is None:
            return None, None
        spy, (x, y) = self._spy, (self._held_out.x, self._held_out.y)
        accuracy = float((spy.predict(self._units.sent(x)).classes == y).double().mean())
        if self._patch is None:
            return accuracy, None
        stamped = self._units.sent(self._patch.perturb(nn.Identity(), x, y))
        return accuracy, success_rate(lambda sent: spy.predict(sent).logits, stamped, y, self._patch.target)

    def _vetoes(self) -> int | None:
        return None if self._spy is None else self._spy.model().vetoes

    def _order(self, number: int, size: int) -> Tensor:
        """The rows of a batch as they are sent: their place must not give hostile ones away."""
        return torch.randperm(size, generator=torch.Generator().manual_seed(self._orders.seed * 1_000_003 + number))


def _known(spy: Client | None, data: Dataset) -> tuple[Weights, InputSpec]:
    """The weights and what they take; without a spy none, and what the data looks like."""
    if spy is not None:
        model, recipe = stolen(spy)
        return model.state_dict(), recipe.inputs
    unit = not data.x.is_floating_point() or (float(data.x.min()) >= 0 and float(data.x.max()) <= 1)
    bounds = (0.0, 1.0) if unit else (None, None)
    return {}, InputSpec(tuple(data.x.shape[1:]), data.classes, *bounds)


def _check(data: Dataset, inputs: InputSpec) -> None:
    if len(data) < LEAST:
        raise InvalidInput("data", f"{len(data)} samples", f"at least {LEAST}, of which a quarter is held out")
    if tuple(data.x.shape[1:]) != inputs.shape:
        raise InvalidInput("data", f"x of shape {list(data.x.shape[1:])}", f"{list(inputs.shape)}, as the model takes")
    if data.classes > inputs.classes:
        raise InvalidInput("data", f"{data.classes} classes", f"at most the {inputs.classes} of the model")
