"""The service as a process: stores, trainer and API wired together as its role wants it, served until a signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from weir.config import Settings
from weir.serving import learner, replica, whole
from weir.serving.learning import Served
from weir.serving.whole import running
from weir.types import ServiceRole

__all__ = ["Served", "running", "serve"]

ROLES: Mapping[ServiceRole, Callable[[Settings], None]] = {
    "all": whole.serve,
    "api": replica.serve,
    "learner": learner.serve,
}


def serve(settings: Settings) -> None:
    """Serve in the role of the settings until SIGINT or SIGTERM; what it raises is said there."""
    ROLES[settings.role](settings)
