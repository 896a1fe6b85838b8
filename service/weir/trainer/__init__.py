"""The one thread that owns the engine, and what it reads and writes."""

from weir.trainer.course import TrainerConfig, initialise
from weir.trainer.rerun import NewEngine
from weir.trainer.thread import Trainer
from weir.trainer.upkeep import Retention

__all__ = ["NewEngine", "Retention", "Trainer", "TrainerConfig", "initialise"]
