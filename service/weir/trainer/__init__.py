"""The one thread that owns the engine, and what it reads and writes."""

from weir.trainer.thread import Trainer, TrainerConfig, initialise

__all__ = ["Trainer", "TrainerConfig", "initialise"]
