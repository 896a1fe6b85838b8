"""Whether the service lives and does its work."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weir.api.schemas.common import View


class Liveness(View):
    """The process answers."""

    status: Literal["live"] = "live"


class Readiness(View):
    """Whether the service does its work; `armed` says whether it also guards."""

    ready: bool
    because: list[str] = Field(description="what is missing for ready")
    armed: bool
    unarmed_because: str | None
    breaker_open: bool = Field(description="most producers are held: learning pauses or the guard only observes")
    waits_for: str | None = Field(description="what keeps the learner from going on; it goes on by itself")
    learner_alive: bool = Field(description="whether the learner runs, as far as this process knows")
    staleness_seconds: float | None = Field(description="since the model was last known to be the learner's newest")
    durability: Literal["durable", "relaxed"] = Field(description="what a 202 is worth")
    durability_because: list[str] = Field(description="what could lose what a 202 has acknowledged")
    dead_letters: int | None = Field(description="deliveries that could not be processed and wait for a person")
