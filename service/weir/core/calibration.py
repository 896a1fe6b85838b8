"""Evidence to p-values, on the trusted probe set; and the published fixed rule beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from weir.errors import InvalidProbe
from weir.types import State

NORMAL = NormalDist()


def smallest_size(rate: float) -> int:
    """How many trusted samples a false-positive rate needs: a conformal p-value is never below 1 / (n + 1)."""
    return math.ceil(1 / rate - 1e-9) - 1


def pvalues(reference: Tensor, values: Tensor) -> Tensor:
    """Conformal p-values, column by column: (1 + #{reference ≥ value}) / (n + 1).

    ``reference`` (n, k) and ``values`` (m, k) give (m, k). On exchangeable samples P(p ≤ α) ≤ α holds exactly
    for any n and any distribution (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World").
    """
    ascending = reference.T.contiguous().sort(dim=1).values
    below = torch.searchsorted(ascending, values.T.contiguous(), right=False)
    return ((1 + len(reference) - below).T / (len(reference) + 1)).to(values.dtype)


def normal_scores(reference: Tensor, values: Tensor) -> Tensor:
    """Ranks among the reference as standard normal scores, column by column, large for large values (van der Waerden).

    ``reference`` (n, k) and ``values`` (m, k) give (m, k). Ties share the middle of their ranks: a discrepancy is
    exactly zero for many samples at once, and must then say nothing.
    """
    ascending, wanted = reference.T.contiguous().sort(dim=1).values, values.T.contiguous()
    below = torch.searchsorted(ascending, wanted, right=False)
    equal = torch.searchsorted(ascending, wanted, right=True) - below
    ranks = (below + (equal + 1) / 2).T / (len(reference) + 1)
    scores: Tensor = torch.special.ndtri(ranks)
    return scores


@dataclass(frozen=True, slots=True)
class Trusted:
    """Evidence of the probe set's fit (m, k) and threshold (n, k) parts, labels (n,) of the latter.

    ``influence`` is the last-layer gradient that the evidence was measured with.
    """

    fit: Tensor
    threshold: Tensor
    labels: Tensor
    influence: Tensor | None

    def state(self) -> State:
        """Everything a restart needs."""
        tensors = {"fit": self.fit, "threshold": self.threshold, "labels": self.labels}
        return State(tensors if self.influence is None else tensors | {"influence": self.influence}, {})

    @staticmethod
    def from_state(state: State, device: torch.device) -> Trusted:
        """What ``state()`` described, on a device."""
        held = {name: tensor.to(device) for name, tensor in state.tensors.items()}
        return Trusted(held["fit"], held["threshold"], held["labels"], held.get("influence"))


@dataclass(frozen=True, slots=True)
class Scores:
    """Calibrated evidence of n samples.

    ``score`` (n,) is the combined evidence, ``p`` (n,) its p-value, ``threshold`` (n,) the score above which a
    sample is suspect, ``normal`` (n, signals + 1) the normal score of every signal and of the combination, less the
    mean score of trusted samples of the same class.
    """

    score: Tensor
    p: Tensor
    threshold: Tensor
    normal: Tensor


class Calibration:
    """What trusted samples look like under one (snapshot, current) pair.

    The score of a sample is Fisher's −2 Σ log p over its signals, each p against the *fit* part; the score
    itself is calibrated on the *threshold* part, per class where a class has ``per_class`` samples there. It
    learns from the probe set only: a threshold that learned from the stream could be ratcheted up by being
    caught, or down by being obeyed.
    """

    def __init__(self, trusted: Trusted, *, rate: float, per_class: int) -> None:
        """Calibrate at a false-positive rate per sample; raises InvalidProbe when the threshold part is too small."""
        needed = smallest_size(rate)
        if len(trusted.labels) < needed:
            raise InvalidProbe(
                "probe",
                f"{len(trusted.labels)} samples in its threshold part",
                f"at least {needed} there for a false-positive rate of {rate:g} per sample",
                code="probe_too_small",
            )
        self.trusted = trusted
        self._rate = rate
        self._scores = self._combine(trusted.threshold)
        self.sample_threshold = conformal_quantile(self._scores, rate)
        self._own = self._per_class(trusted.labels, max(per_class, needed))
        self._columns = torch.cat([trusted.threshold, self._scores[:, None]], dim=1)
        self._center_classes(normal_scores(self._columns, self._columns), trusted.labels)

    def score(self, evidence: Tensor, y: Tensor) -> Scores:
        """Calibrate evidence (n, k) of samples labelled ``y`` (n,)."""
        score = self._combine(evidence)
        p = pvalues(self._scores[:, None], score[:, None])[:, 0]
        threshold = torch.full_like(score, self.sample_threshold)
        for label, (reference, own) in self._own.items():
            mine = y == label
            p[mine] = pvalues(reference[:, None], score[mine, None])[:, 0]
            threshold[mine] = own
        normal = normal_scores(self._columns, torch.cat([evidence, score[:, None]], dim=1))
        means = self._class_means[y.clamp_max(len(self._class_means) - 1)]
        return Scores(score, p, threshold, normal - means)

    def group_statistic(self, mean: Tensor, classes: Mapping[int, int]) -> float:
        """How far a group's mean normal scores (k,) stand out: the largest column's z; ``classes`` counts its labels.

        The variance of a mean of n scores is not 1/n but 1/n + Σ_c (n_c/n)² / m_c, since the m_c trusted samples of a
        class are the same for all of them: without the second term a large group, or one of few classes, would always
        alarm in the end.
        """
        n = sum(classes.values())
        shared = sum((count / n) ** 2 / self._class_sizes.get(label, 1) for label, count in classes.items())
        return float(mean.max()) / math.sqrt(1 / n + shared)

    def mean_discrepancy_threshold(self, size: int, rate: float) -> float:
        """The bound on the mean discrepancy of ``size`` fresh samples, nats: mean + z · sd · √(1/n + 1/m)."""
        trusted = self.trusted.threshold[:, 0]
        spread = float(trusted.std(unbiased=True)) * math.sqrt(1 / size + 1 / len(trusted))
        return float(trusted.mean()) + NORMAL.inv_cdf(1 - rate) * spread

    def _center_classes(self, normal: Tensor, labels: Tensor) -> None:
        """Learn how classes differ among trusted samples: a producer of the hard ones only is not hostile for that.

        A last row stands for classes that have no trusted sample: their mean is nought, as if known from one sample.
        """
        sizes = torch.bincount(labels)
        sums = torch.zeros(len(sizes) + 1, normal.shape[1], dtype=normal.dtype, device=normal.device)
        sums = sums.index_add_(0, labels, normal)
        self._class_sizes = {label: max(1, size) for label, size in enumerate(sizes.tolist())}
        self._class_means = sums / torch.tensor([*self._class_sizes.values(), 1], device=sums.device)[:, None]

    def _combine(self, evidence: Tensor) -> Tensor:
        return -2 * pvalues(self.trusted.fit, evidence).log().sum(1)

    def _per_class(self, labels: Tensor, least: int) -> dict[int, tuple[Tensor, float]]:
        own = {}
        for label, count in enumerate(torch.bincount(labels).tolist()):
            if count >= least:
                reference = self._scores[labels == label]
                own[label] = (reference, conformal_quantile(reference, self._rate))
        return own


def conformal_quantile(scores: Tensor, rate: float) -> float:
    """The score that at most a share ``rate`` of fresh ones exceeds: the ⌈(1 − rate)(n + 1)⌉-th smallest of n."""
    rank = math.ceil((1 - rate) * (len(scores) + 1) - 1e-9)
    return float(scores.sort().values[min(rank, len(scores)) - 1])


def group_threshold(rate: float, columns: int) -> float:
    """The bound on the largest of ``columns`` standard normal statistics at a false-positive rate (Bonferroni)."""
    return NORMAL.inv_cdf(1 - rate / columns)
