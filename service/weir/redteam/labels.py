"""Wrong labels on right samples: hostile where they are sent on purpose, honest noise where they are not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weir.errors import InvalidSetting
from weir.redteam.chance import generator


@dataclass(frozen=True, slots=True)
class RandomFlip:
    """Every label becomes one of the other ``classes`` - 1, all of them equally likely."""

    classes: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.classes)

    def relabel(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Labels that are all wrong; see LabelAttack."""
        draws = torch.randint(1, self.classes, (len(y),), generator=generator(self.seed, x, y))
        return (y + draws.to(y.device)) % self.classes


@dataclass(frozen=True, slots=True)
class PairwiseFlip:
    """Every label becomes the next class, so that all flipped samples of a class agree with each other."""

    classes: int

    def __post_init__(self) -> None:
        _check(self.classes)

    def relabel(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Labels that are all wrong; see LabelAttack."""
        return (y + 1) % self.classes


def _check(classes: int) -> None:
    if classes < 2:
        raise InvalidSetting("classes", classes, "at least 2: there is no other label")
