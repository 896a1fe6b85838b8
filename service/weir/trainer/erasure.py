"""Which checkpoints hold weights that learned from what is to be erased."""

from __future__ import annotations

from weir.stores.base import Stores
from weir.stores.erasure import Found
from weir.trainer.saved import Saved
from weir.types import Verdict


def learned_by(stores: Stores, found: Found) -> list[str]:
    """The ids of the checkpoints with a step in their lineage that learned any of it."""
    steps = _steps(stores, found)
    return [
        info.id
        for info in stores.checkpoints.all()
        if any(first <= step <= last for step in steps for first, last in _lineage(stores, info.id))
    ]


def _lineage(stores: Stores, checkpoint: str) -> list[tuple[int, int]]:
    return list(Saved.of(stores.checkpoints.load(checkpoint)[1]).lineage)


def _steps(stores: Stores, found: Found) -> set[int]:
    """The steps that learned what is to be erased."""
    steps: set[int] = set()
    for batch, indices in found.samples.items():
        for line in stores.journal.samples(batch):
            if line.index in indices and line.verdict.verdict is not Verdict.QUARANTINE:
                steps.add(line.step)
    return steps
