"""What a guard decided on one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weir.core.ranks import Ranks
from weir.types import Reason, SampleVerdict, Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdicts on n samples; ``x`` holds this rank's own of them, with corrected values where the verdict is correct.

    A score or threshold is None when the mode has none, never 0.0.
    """

    verdicts: tuple[SampleVerdict, ...]
    x: Tensor
    step_discrepancy: float | None = None
    step_discrepancy_threshold: float | None = None
    step_score: float | None = None
    step_threshold: float | None = None
    sample_threshold: float | None = None
    alarms: tuple[Reason, ...] = ()
    alarmed_producers: tuple[str, ...] = ()
    drift: bool = False

    @property
    def admitted(self) -> Tensor:
        """Which samples may be learned (n,) bool."""
        return torch.tensor([v.verdict is not Verdict.QUARANTINE for v in self.verdicts], device=self.x.device)

    @property
    def corrects(self) -> bool:
        """Whether any sample that may be learned is not as it came."""
        return any(v.verdict is Verdict.CORRECT for v in self.verdicts)


def accept_all(x: Tensor, reason: Reason, n: int) -> Judgement:
    """Accept all n samples for a reason that is not evidence."""
    return Judgement((SampleVerdict(Verdict.ACCEPT, reason),) * n, x)


def on_record(judged: Judgement, verdicts: Sequence[SampleVerdict], x: Tensor, ranks: Ranks) -> Judgement:
    """The verdicts of an earlier try, and of the rank's samples ``x`` only those corrected that were so then."""
    corrected = ranks.own(torch.tensor([v.verdict is Verdict.CORRECT for v in verdicts], device=x.device))
    return replace(
        judged, verdicts=tuple(verdicts), x=torch.where(corrected.view(-1, *[1] * (x.ndim - 1)), judged.x, x)
    )


def held(verdicts: Sequence[SampleVerdict], reason: Reason) -> tuple[SampleVerdict, ...]:
    """The same verdicts with whatever was to be learned held instead, for ``reason``."""
    return tuple(
        v
        if v.verdict is Verdict.QUARANTINE
        else SampleVerdict(Verdict.QUARANTINE, reason, v.score, v.threshold, v.discrepancy, v.pvalue)
        for v in verdicts
    )


def passed(verdicts: Sequence[SampleVerdict]) -> tuple[SampleVerdict, ...]:
    """The same verdicts with whatever was held accepted instead; the reasons stay."""
    return tuple(replace(v, verdict=Verdict.ACCEPT) if v.verdict is Verdict.QUARANTINE else v for v in verdicts)
