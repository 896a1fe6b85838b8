"""The service as a process: stores, trainer and API wired together, served until a signal."""

from weir.serving.learning import Served
from weir.serving.whole import running, serve

__all__ = ["Served", "running", "serve"]
