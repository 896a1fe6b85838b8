"""What the routes work with: the stores, the learner and the limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import anyio
from fastapi import Depends, Request

from weir.api.admission import Admission
from weir.api.appender import Appender
from weir.api.pace import Pace
from weir.errors import InvalidInput, NotReady
from weir.metrics import DoorMetrics
from weir.stores.base import CheckpointInfo, Durability, Shared
from weir.types import Batch, LearnerStatus, Publication, ReplayOrder, ReplayReport, ServiceRole

DurabilityName = Literal["durable", "relaxed"]


class Learner(Protocol):
    """What the API may know of the learner, here or in another process; its values are immutable and swapped whole."""

    @property
    def publication(self) -> Publication | None:
        """The model that readers use, or None before the first one."""

    @property
    def status(self) -> LearnerStatus:
        """Where the learner stands."""

    @property
    def staleness(self) -> float | None:
        """Seconds since the publication was last known to be the learner's newest; None before the first one."""

    def attend(self) -> None:
        """Somebody waits for its news: whoever hears of it from afar takes in the next at once."""

    def checkpoints(self) -> Sequence[CheckpointInfo]:
        """The headers of its checkpoints, oldest first; raises NotReady while they are not known."""


class Replays(Protocol):
    """Replays as jobs beside the learner; one runs at a time."""

    def start(self, order: ReplayOrder, by: str) -> ReplayReport:
        """Begin one; raises Conflict while another runs, or when the log no longer reaches back to the checkpoint.

        Raises NotFound for a checkpoint that is not there.
        """

    def get(self, id: str) -> ReplayReport:
        """One replay; raises NotFound."""

    def all(self) -> list[ReplayReport]:
        """Those of this process, oldest first."""

    def cancel(self, id: str) -> ReplayReport:
        """Stop one; its result is thrown away. Raises NotFound, and Conflict when it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one request may carry, ask for and wait for; sizes in bytes, times in seconds.

    ``waiters`` and ``predictors`` are threads of their own: requests that wait for the learner or for
    the model's arithmetic can never take the threads that all other requests need. From ``quarantine_producer_max``
    held samples of its own on a producer's deliveries are refused, and from ``quarantine_max_samples`` of all on those
    of every producer that has some there.
    """

    max_body_bytes: int = 32 * 1024 * 1024
    max_samples: int = 10_000
    max_wait_seconds: float = 60.0
    body_seconds: float = 60.0
    command_seconds: float = 10.0
    page_size: int = 50
    max_page_size: int = 500
    waiters: int = 32
    predictors: int = 4
    quarantine_max_samples: int = 100_000
    quarantine_producer_max: int = 20_000

    def page(self, wanted: int | None) -> int:
        """How many items a page has; raises InvalidInput for more than it may."""
        size = self.page_size if wanted is None else wanted
        if not 1 <= size <= self.max_page_size:
            raise InvalidInput("limit", size, f"1 to {self.max_page_size}")
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Everything that a route may touch.

    ``check_probe`` raises InvalidProbe for a batch that cannot calibrate the guard; ``role`` is that of this process.
    """

    stores: Shared
    learner: Learner
    replays: Replays
    limits: Limits
    clock: Callable[[], float]
    metrics: DoorMetrics
    check_probe: Callable[[Batch], None]
    role: ServiceRole = "all"
    admission: Admission = field(init=False)
    appender: Appender = field(init=False)
    pace: Pace = field(init=False, default_factory=Pace)
    waiters: anyio.CapacityLimiter = field(init=False)
    predictors: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        most, most_of_one = self.limits.quarantine_max_samples, self.limits.quarantine_producer_max
        admission = Admission(self.stores.quarantine, most=most, most_of_one=most_of_one)
        object.__setattr__(self, "admission", admission)
        object.__setattr__(self, "appender", Appender(self.stores.log, self.stores.durability))
        object.__setattr__(self, "waiters", anyio.CapacityLimiter(self.limits.waiters))
        object.__setattr__(self, "predictors", anyio.CapacityLimiter(self.limits.predictors))

    def durability(self) -> DurabilityName:
        """What an acknowledgement is worth now, in one word; blocks."""
        return durability_name(self.stores.durability())

    @property
    def published(self) -> Publication:
        """The published model; raises NotReady before there is one."""
        publication = self.learner.publication
        if publication is None:
            raise NotReady("no model is published yet; try again when /health/ready answers 200")
        return publication


def durability_name(durability: Durability) -> DurabilityName:
    """What an acknowledgement is worth, in one word."""
    return "relaxed" if durability.relaxed_because else "durable"


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


App = Annotated[Service, Depends(_service)]
