"""From trials to the figures of one row; a figure that means nothing for a scenario is None, never 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from weir.bench.stream import HOSTILE, Phase
from weir.bench.trial import Moment, Trial, median
from weir.types import Reason, Verdict

JUDGED = 5  # turns whose median accuracy counts: one step of a small model moves it by a point
BITES = 0.05  # accuracy an attack must cost an unguarded model
BITES_SUCCESS = 0.5  # or the share of stamped samples that a backdoor must turn
FALSE_RATES = (  # dense where a guard works
    *(0.0, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15),
    *(0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
)
ATTACKS = (Phase.ATTACK, Phase.TRIGGER)


def accuracy_before_trigger(trial: Trial) -> float | None:
    """The accuracy when the trigger batch arrives; None without one."""
    return trial.accuracy[trial.phases.index(Phase.TRIGGER)] if Phase.TRIGGER in trial.phases else None


def accuracy_after_attack(trial: Trial) -> float | None:
    """The median accuracy over the last attacked turn and those that follow it; None without an attack."""
    return _after_attack(trial, trial.accuracy)


def success_after_attack(trial: Trial) -> float | None:
    """The backdoor's success rate over the same turns; None without one."""
    return _after_attack(trial, trial.success)


def accuracy_final(trial: Trial) -> float:
    """The median accuracy over the last turns."""
    return median(trial.accuracy[-JUDGED:])


def gain(trial: Trial) -> float:
    """Accuracy gained from start to end."""
    return accuracy_final(trial) - trial.accuracy[0]


def lost(attacked: Trial, spared: Trial) -> float:
    """Accuracy lost to an attack when it ended, against the same guard that was not attacked."""
    with_it, without = accuracy_after_attack(attacked), accuracy_after_attack(spared)
    return without - with_it if with_it is not None and without is not None else 0.0


def bites(unguarded: Trial, spared: Trial) -> bool:
    """Whether an attack counts: what it costs an unguarded model, or how often its backdoor opens."""
    return lost(unguarded, spared) >= BITES or (success_after_attack(unguarded) or 0.0) >= BITES_SUCCESS


def touched_ratio(trial: Trial) -> float:
    """The share of all samples that were held or corrected."""
    touched = torch.cat([_touched(moment) for moment in trial.moments])
    return float(touched.float().mean())


def detection(trial: Trial, classes: int) -> dict[str, Any]:
    """Who was touched: poisoned, honest, honest but wrong, and honest by class."""
    moments = trial.moments
    held, corrected = (
        torch.cat([_having(moment, verdict) for moment in moments]) for verdict in (Verdict.QUARANTINE, Verdict.CORRECT)
    )
    poisoned = torch.cat([moment.poisoned for moment in moments])
    noisy = torch.cat([moment.noisy for moment in moments])
    labels = torch.cat([moment.labels for moment in moments])
    touched, clean = held | corrected, ~poisoned
    return {
        "held_poison_ratio": _share(held, poisoned),
        "corrected_poison_ratio": _share(corrected, poisoned),
        "touched_clean_ratio": _share(touched, clean),
        "touched_noisy_ratio": _share(touched, noisy),
        "touched_per_class": [_share(touched, clean & (labels == label)) for label in range(classes)],
        "clean_samples": int(clean.sum()),
        "poisoned_samples": int(poisoned.sum()),
        "auroc": auroc(*scored) if (scored := _scored(moments)) else None,
        "roc": roc(*scored) if scored else None,
    }


def counts(trial: Trial) -> dict[str, Any]:
    """Alarms and vetoes, on steps without any poisoned sample and on the others."""
    clean = [moment for moment in trial.moments if not moment.poisoned.any()]
    return {
        "steps": len(trial.moments),
        "batches": len(clean),
        "touched_batches": sum(bool(_touched(moment).any()) for moment in clean),
        "called_poison": sum(bool(m.report.alarms) and bool(_touched(m).any()) for m in clean),
        "alarms": sum(bool(moment.report.alarms) for moment in clean),
        "step_alarms": sum(Reason.STEP in moment.report.alarms for moment in clean),
        "alarms_on_poison": sum(bool(m.report.alarms) for m in trial.moments if m.poisoned.any()),
        "poisoned_batches": len(trial.moments) - len(clean),
        "vetoes": sum(moment.report.vetoed for moment in trial.moments),
        "vetoes_on_clean": sum(moment.report.vetoed for moment in clean),
        "drift_steps": drift_steps(trial),
    }


def drift_steps(trial: Trial) -> int:
    """At how many steps the engine said that the world, not a sender, has changed."""
    return sum(moment.report.drift or moment.report.probe_stale for moment in trial.moments)


def attribution(trial: Trial) -> dict[str, Any]:
    """After how many of its batches the hostile producer was named, and how often honest ones were."""
    sent = blamed = honest = 0
    named = None
    for moment in trial.moments:
        senders, accused = set(moment.report.producers), set(moment.report.alarmed_producers)
        honest += len(senders - {HOSTILE})
        blamed += len(accused - {HOSTILE})
        sent += HOSTILE in senders
        if named is None and HOSTILE in accused:
            named = sent
    return {"named_after": named, "blamed_honest": blamed, "honest_batches": honest}


def threshold_shift(trial: Trial, spared: Trial) -> float | None:
    """How far the attack moved the threshold on a sample's score, relative to the spared guard's at the same turn."""
    first = [next((m.report for m in run.moments if m.phase is Phase.AFTER), None) for run in (trial, spared)]
    moved, usual = (report.sample_threshold if report else None for report in first)
    return moved / usual - 1 if moved is not None and usual else None


def auroc(scores: Tensor, positive: Tensor) -> float | None:
    """The chance that a positive (n,) bool scores above another sample, ties half; None when one kind is missing."""
    yes, no = scores[positive], scores[~positive]
    if not len(yes) or not len(no):
        return None
    ordered = no.sort().values
    below = torch.searchsorted(ordered, yes, right=False) + torch.searchsorted(ordered, yes, right=True)
    return float(below.double().mean() / (2 * len(no)))


def roc(scores: Tensor, positive: Tensor) -> dict[str, list[float]] | None:
    """The share of positives (n,) bool above a threshold that at most each share of FALSE_RATES of the others exceeds.

    Source: the ROC curve, read from left to right and never above it where scores tie; None when one kind is missing.
    """
    yes, no = scores[positive], scores[~positive].sort(descending=True).values
    if not len(yes) or not len(no):
        return None
    bounds = torch.cat([no, torch.full((1,), -torch.inf, dtype=no.dtype)])
    found = [float((yes > bounds[int(rate * len(no))]).float().mean()) for rate in FALSE_RATES]
    return {"fpr": list(FALSE_RATES), "tpr": [round(value, 4) for value in found]}


def upper_bound(events: int, trials: int, confidence: float = 0.95) -> float | None:
    """The largest rate under which so few events have a chance of 1 − confidence (Clopper and Pearson); None of 0."""
    if trials == 0:
        return None
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(events, trials, middle) > 1 - confidence else (low, middle)
    return high


def _at_most(events: int, trials: int, rate: float) -> float:
    """The chance of at most so many events."""
    if rate >= 1:
        return float(events >= trials)
    n, k = torch.tensor(float(trials)), torch.arange(events + 1, dtype=torch.float64)
    log = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    log = log + k * torch.log(torch.tensor(rate)) + (n - k) * torch.log1p(torch.tensor(-rate))
    return float(log.exp().sum())


def _after_attack(trial: Trial, values: Sequence[float]) -> float | None:
    last = [at for at, phase in enumerate(trial.phases, 1) if phase in ATTACKS][-1:]
    return median(values[last[0] : last[0] + JUDGED]) if last and values else None


def _scored(moments: Sequence[Moment]) -> tuple[Tensor, Tensor] | None:
    """Scores and which are poisoned: of the attacked steps that hold both kinds, else of the whole stream."""
    mixed = [m for m in moments if m.poisoned.any() and not m.poisoned.all()]
    scored = [m for m in mixed or moments if all(v.score is not None for v in m.report.verdicts)]
    if not scored:
        return None
    scores = torch.tensor([v.score for v in _verdicts(scored)], dtype=torch.float64)
    return scores, torch.cat([m.poisoned for m in scored])


def _verdicts(moments: Iterable[Moment]) -> Iterable[Any]:
    return (verdict for moment in moments for verdict in moment.report.verdicts)


def _having(moment: Moment, verdict: Verdict) -> Tensor:
    return torch.tensor([v.verdict is verdict for v in moment.report.verdicts])


def _touched(moment: Moment) -> Tensor:
    return ~_having(moment, Verdict.ACCEPT)


def _share(chosen: Tensor, among: Tensor) -> float | None:
    return float(chosen[among].float().mean()) if bool(among.any()) else None
