"""``weir demo``: a stream, an attack, and the same model with and without a guard."""

from weir.demo.play import run

__all__ = ["run"]
