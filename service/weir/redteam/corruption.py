"""What happens to a batch on its way to the service: an attack with its budget, or honest bad luck."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from weir.redteam.attack import Attack, LabelAttack
from weir.redteam.threat import ThreatModel


@dataclass(frozen=True, slots=True)
class Corruption:
    """What happens to the first samples of a batch on their way, and whether someone means harm by it."""

    threat: ThreatModel
    moves: Attack | None = None
    labels: LabelAttack | None = None
    hostile: bool = True

    def applied(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (n, *shape) and labels (n,) as they arrive: crafted against ``model``, within the budget."""
        moved = self.threat.craft(self.moves, model, x, y) if self.moves else x
        labels = self.threat.mislabel(self.labels, model, x, y) if self.labels else y
        return moved, labels
