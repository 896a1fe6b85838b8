"""Evidence to p-values, on the trusted probe set; and the published fixed rule beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from weir.core.reference import Reference
from weir.core.vaccine import Labelled, Scale, Vaccine, folds_of, mixture
from weir.errors import InvalidProbe

NORMAL = NormalDist()


def smallest_size(rate: float) -> int:
    """How many trusted samples a false-positive rate needs: a conformal p-value is never below 1 / (n + 1)."""
    return math.ceil(1 / rate - 1e-9) - 1


@dataclass(frozen=True, slots=True)
class Trusted:
    """Evidence (n, k) of trusted samples, each measured as if it were not known, and their labels (n,).

    All on the CPU but ``influence``, the last-layer gradient that the evidence was measured with.
    """

    evidence: Tensor
    labels: Tensor
    influence: Tensor | None


@dataclass(frozen=True, slots=True)
class Scores:
    """Calibrated evidence of n samples.

    ``score`` (n,) is the combined evidence, ``p`` (n,) its p-value, ``threshold`` (n,) the score above which a
    sample is suspect. ``normal`` (n, columns) holds the normal score of every signal and combination, less the mean
    score of trusted samples of the same class; ``ratios`` (n, attacks + 1) the likelihood ratios of each attack of the
    vaccine, and of one that nobody knows, against trusted data.
    """

    score: Tensor
    p: Tensor
    threshold: Tensor
    normal: Tensor
    ratios: Tensor


class Calibration:
    """What trusted samples look like under one (snapshot, current) pair.

    The score of a sample is the vaccine's log likelihood ratio, and without one Fisher's −2 Σ log p over the signals.
    The score itself is calibrated on the same trusted samples, each scored by what has not learned from it: a threshold
    from n of them holds its rate on average, but is off by a share of it that falls with √n, and there are never many.
    Where a class has ``per_class`` samples it gets a threshold of its own. All is learned from the probe set only: a
    threshold that learned from the stream could be ratcheted up by being caught, or down by being obeyed.
    """

    def __init__(
        self,
        trusted: Trusted,
        *,
        rate: float,
        per_class: int,
        vaccine: Vaccine | None = None,
        judged: Sequence[int] | None = None,
    ) -> None:
        """Calibrate at a false-positive rate per sample, on the ``judged`` columns (default: all).

        Raises InvalidProbe when there are too few trusted samples.
        """
        needed = smallest_size(rate)
        if len(trusted.labels) < needed:
            raise InvalidProbe(
                "probe",
                f"{len(trusted.labels)} samples to calibrate with",
                f"at least {needed} for a false-positive rate of {rate:g} per sample",
                code="probe_too_small",
            )
        self.trusted = trusted
        self.vaccine = vaccine
        self._rate = rate
        self._judged = list(range(trusted.evidence.shape[1]) if judged is None else judged)
        self._scale = Scale.of(trusted.evidence[:, self._judged])
        standard = self.standardise(trusted.evidence)
        self._standard = Reference(standard)
        combined = self._combine_trusted(standard)
        self._combined, self._fisher = Reference(combined), Reference(combined[:, :1])
        self._scores = self._score(combined)
        self._reference = Reference(self._scores[:, None])
        self.sample_threshold = conformal_quantile(self._scores, rate)
        self._own = self._per_class(trusted.labels, max(per_class, needed))
        self.columns = standard.shape[1] + combined.shape[1]  # of ``Scores.normal``
        self._excess = self._expert_ratios(combined).mean(0).clamp_min(1.0)
        sizes = torch.bincount(trusted.labels)
        self._class_sizes = {label: max(1, size) for label, size in enumerate(sizes.tolist())}
        own = [reference.own_normal_scores() for reference in (self._standard, self._combined)]
        self._class_means = self._by_class(torch.cat(own, dim=1))
        self._evidence_means = self._by_class(standard)
        residual = standard - self._evidence_means[trusted.labels]
        self._evidence_spread = residual.square().mean(0).sqrt().clamp_min(1e-3)

    def standardise(self, evidence: Tensor) -> Tensor:
        """The judged signals of evidence (n, signals), on the scale of trusted ones: (n, k)."""
        return self._scale.standardise(evidence[:, self._judged])

    def score(self, standardised: Tensor, y: Tensor) -> Scores:
        """Calibrate standardised evidence (n, k) of samples labelled ``y`` (n,).

        A sample whose evidence is not all finite is suspect, and says nothing about any group that it is in: one
        absurd number must not make the mean of honest or hostile ones unknowable.
        """
        sound = standardised.isfinite().all(1)
        scores = self._scored(torch.where(sound[:, None], standardised, 0.0), y)
        if bool(sound.all()):
            return scores
        return Scores(
            score=torch.where(sound, scores.score, torch.finfo(scores.score.dtype).max),
            p=torch.where(sound, scores.p, 1 / (len(self._scores) + 1)),
            threshold=scores.threshold,
            normal=torch.where(sound[:, None], scores.normal, 0.0),
            ratios=torch.where(sound[:, None], scores.ratios, 1.0),
        )

    def _scored(self, standardised: Tensor, y: Tensor) -> Scores:
        combined = self._combine(standardised)
        score = self._score(combined)
        p = self._reference.pvalues(score[:, None])[:, 0]
        threshold = torch.full_like(score, self.sample_threshold)
        for label, (reference, own) in self._own.items():
            mine = y == label
            p[mine] = reference.pvalues(score[mine, None])[:, 0]
            threshold[mine] = own
        normal = torch.cat([self._standard.normal_scores(standardised), self._combined.normal_scores(combined)], dim=1)
        return Scores(score, p, threshold, normal - self._class_means[self._known(y)], self._ratios(combined))

    def residual(self, standardised: Tensor, y: Tensor) -> Tensor:
        """How far (n, k) each signal is from the mean of trusted samples of the same class, in their spreads."""
        return (standardised - self._evidence_means[self._known(y)]) / self._evidence_spread

    def restored(self, residual: Tensor, y: Tensor) -> Tensor:
        """The standardised evidence (n, k) that has this residual."""
        return residual * self._evidence_spread + self._evidence_means[self._known(y)]

    def group_statistics(self, means: Tensor, classes: Sequence[Mapping[int, int]]) -> Tensor:
        """How far each group's mean normal scores (…, groups, k) stand out (…, groups): the largest z.

        ``classes`` counts the labels of each group.

        The variance of a mean of n scores is not 1/n but 1/n + Σ_c (n_c/n)² / m_c, since the m_c trusted samples of a
        class are the same for all of them: without the second term a large group, or one of few classes, would always
        alarm in the end.
        """
        variances = [1 / sum(counts.values()) + self.shared_variance(counts) for counts in classes]
        return means.amax(-1).double().cpu() / torch.tensor(variances, dtype=torch.float64).sqrt()

    def shared_variance(self, classes: Mapping[int, int]) -> float:
        """Variance of a mean normal score that more samples of these ``classes`` (counts) do not take away."""
        n = sum(classes.values())
        return math.fsum((count / n) ** 2 / self._class_sizes.get(label, 1) for label, count in classes.items())

    def tail(self, least: int) -> list[int]:
        """Which trusted samples thresholds rest on, as rows of its evidence: the highest scores.

        They are twice as many as a threshold leaves above it, and ``least`` where that is more.
        """
        count = max(least, 2 * math.ceil(self._rate * len(self._scores)))
        highest = self._scores.topk(min(count, len(self._scores))).indices
        return list(highest.tolist())

    def shift(self, now: Trusted, rows: Sequence[int]) -> float:
        """How far the most mobile signal of these rows of what is trusted has moved on average, in its spreads."""
        there = torch.tensor(rows)
        moved = self.standardise(now.evidence[there]) - self.standardise(self.trusted.evidence[there])
        return float((moved.mean(0) / self._evidence_spread).abs().max())

    def eased(self, now: Trusted, rows: Sequence[int]) -> Tensor:
        """How much lower the normal scores (columns,) of these rows of what is trusted are now on average.

        By so much a group stands out more among all that is trusted as it is now, or less where they are higher, if the
        others have moved as these, of whichever class.
        """
        there = torch.tensor(rows)
        before, after = (
            self._scored(self.standardise(trusted.evidence[there]), trusted.labels[there]).normal.mean(0)
            for trusted in (self.trusted, now)
        )
        return before - after

    def mean_discrepancy_threshold(self, size: int, rate: float) -> float:
        """The bound on the mean discrepancy of ``size`` fresh samples, nats: mean + z · sd · √(1/n + 1/m)."""
        trusted = self.trusted.evidence[:, 0]
        spread = float(trusted.std(unbiased=True)) * math.sqrt(1 / size + 1 / len(trusted))
        return float(trusted.mean()) + NORMAL.inv_cdf(1 - rate) * spread

    def _by_class(self, values: Tensor) -> Tensor:
        """Means (classes + 1, columns) of values (m, columns) of trusted samples.

        Classes differ: a producer of the hard ones only is not hostile for that. A last row stands for classes that
        have no trusted sample: their mean is nought, as if known from one sample.
        """
        sums = torch.zeros(len(self._class_sizes) + 1, values.shape[1], dtype=values.dtype, device=values.device)
        sums = sums.index_add_(0, self.trusted.labels, values)
        return sums / torch.tensor([*self._class_sizes.values(), 1], device=sums.device)[:, None]

    def _known(self, y: Tensor) -> Tensor:
        """Labels, with one row for all that no trusted sample has."""
        return y.clamp_max(len(self._class_sizes))

    def _combine(self, standardised: Tensor) -> Tensor:
        """Fisher's statistic, then the logits of the vaccine's experts: (n, 1 + attacks)."""
        fisher = -2 * self._standard.pvalues(standardised).log().sum(1, keepdim=True)
        return fisher if self.vaccine is None else torch.cat([fisher, self.vaccine.logits(standardised)], dim=1)

    def _combine_trusted(self, standard: Tensor) -> Tensor:
        """The same of the trusted samples, by what has learned from the others."""
        fisher = -2 * self._standard.own_pvalues().log().sum(1, keepdim=True)
        if self.vaccine is None:
            return fisher
        known = Labelled(standard, folds_of(self.trusted.labels))
        return torch.cat([fisher, self.vaccine.held_out_logits(known)], dim=1)

    def _score(self, combined: Tensor) -> Tensor:
        return combined[:, 0] if self.vaccine is None else mixture(combined[:, 1:])

    def _expert_ratios(self, combined: Tensor) -> Tensor:
        """Likelihood ratios (n, attacks), no further from one than so many trusted samples can tell."""
        furthest = math.log(len(self.trusted.labels))
        return combined[:, 1:].clamp(-furthest, furthest).exp()

    def _ratios(self, combined: Tensor) -> Tensor:
        """The experts' ratios, none above one on average over trusted samples; last that of an unknown attack.

        1 / (2 √p) has the mean one for a p-value of a clean sample, whatever the attack may look like.
        """
        unknown = self._fisher.pvalues(combined[:, :1]).rsqrt() / 2
        return torch.cat([self._expert_ratios(combined) / self._excess, unknown], dim=1)

    def _per_class(self, labels: Tensor, least: int) -> dict[int, tuple[Reference, float]]:
        own = {}
        for label, count in enumerate(torch.bincount(labels).tolist()):
            if count >= least:
                mine = self._scores[labels == label]
                own[label] = (Reference(mine[:, None]), conformal_quantile(mine, self._rate))
        return own


def conformal_quantile(scores: Tensor, rate: float) -> float:
    """The score that at most a share ``rate`` of fresh ones exceeds: the ⌈(1 − rate)(n + 1)⌉-th smallest of n."""
    rank = math.ceil((1 - rate) * (len(scores) + 1) - 1e-9)
    return float(scores.sort().values[min(rank, len(scores)) - 1])


def group_threshold(rate: float, columns: int) -> float:
    """The bound on the largest of ``columns`` standard normal statistics at a false-positive rate (Bonferroni)."""
    return NORMAL.inv_cdf(1 - rate / columns)
