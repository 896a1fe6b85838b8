"""The published rule, for parity: correct the whole step until its mean discrepancy is under a threshold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weir.core.correction import Correction
from weir.core.judgement import Judgement
from weir.types import Reason, SampleVerdict, Verdict

Discrepancy = Callable[[Tensor], Tensor]


def judge_mean(x: Tensor, y: Tensor, discrepancy: Discrepancy, threshold: float, correction: Correction) -> Judgement:
    """Discrepancy-aware sample correction as released by Zhu et al. (ICML 2023): one decision for all samples.

    ``x`` and ``y`` are this rank's samples; ``discrepancy(x)`` gives nats (n,) of all ranks'. Every sample moves while
    the mean is above ``threshold`` and steps are left; all are learned in the end, corrected or not.
    """
    first = discrepancy(x)
    mean = float(first.mean())
    suspect = mean > threshold

    def suspicious(moved: Tensor, index: Tensor) -> Tensor:
        return torch.full((len(moved),), bool(discrepancy(moved).mean() > threshold), device=moved.device)

    corrected = correction.correct(x, y, suspicious).x if suspect else x
    verdict = Verdict.CORRECT if suspect else Verdict.ACCEPT
    reason = Reason.DISCREPANCY if suspect else Reason.CLEAN
    return Judgement(
        verdicts=tuple(SampleVerdict(verdict, reason, mean, threshold, d) for d in first.tolist()),
        x=corrected,
        step_discrepancy=mean,
        step_discrepancy_threshold=threshold,
        alarms=(Reason.DISCREPANCY,) if suspect else (),
    )
