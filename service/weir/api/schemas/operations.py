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
