"""Per-sample signals of poisoning, as one matrix: memorization discrepancy first, its companions after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.familiarity import Familiarity
from weir.core.network import Network, Outputs
from weir.core.task import Task
from weir.types import EvidenceSet

LEAST_IMAGE = 3  # pixels a side: a second difference needs as many


class Parents(NamedTuple):
    """Which trusted samples (``rows`` (n,) of them) others were made from, or are.

    ``x`` (m, …), ``y`` (m,) and ``current`` are all that influence and familiarity come from, and the current model's
    outputs on it.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    current: Outputs


@dataclass(frozen=True)
class View:
    """What a signal may look at: n samples with the current and the historical model's outputs on them.

    ``influence`` is the gradient (classes, features) of the trusted loss with respect to the last layer,
    ``familiarity`` what trusted inputs look like, ``of_input`` what the input alone tells, where that is known. Where
    the samples are trusted themselves, or made from such, neither of the first two must know their ``parents``.
    """

    x: Tensor
    y: Tensor
    current: Outputs
    historical: Outputs
    influence: Tensor | None
    familiarity: Familiarity
    parents: Parents | None = None
    of_input: Tensor | None = None

    @cached_property
    def roughness(self) -> tuple[Tensor, Tensor]:
        """Lower quartile and mean (n,) of an image's second differences: two signals share what is slow to find."""
        differences = _second_differences(self.x)
        return lower_quartile(differences), differences.mean(1)


Signal = Callable[[Task, View], Tensor]


def discrepancy(task: Task, view: View) -> Tensor:
    """Memorization discrepancy, nats."""
    return task.discrepancy(view.historical.logits, view.current.logits)


def reverse(task: Task, view: View) -> Tensor:
    """The divergence the other way, nats: large where the current model found a new answer."""
    return task.reverse(view.historical.logits, view.current.logits)


def midpoint(task: Task, view: View) -> Tensor:
    """The symmetric, bounded divergence, nats."""
    return task.midpoint(view.historical.logits, view.current.logits)


def loss(task: Task, view: View) -> Tensor:
    """Loss of the current model, nats."""
    return task.loss(view.current.logits, view.y)


def historical_loss(task: Task, view: View) -> Tensor:
    """Loss of the historical model, nats."""
    return task.loss(view.historical.logits, view.y)


def loss_change(task: Task, view: View) -> Tensor:
    """Loss now minus loss then, nats."""
    return loss(task, view) - historical_loss(task, view)


def harm(task: Task, view: View) -> Tensor:
    """First-order rise of the trusted loss when the last layer steps on this sample: −⟨∇ sample, ∇ trusted⟩.

    A parent's own part of ∇ trusted is left out, for a sample always aligns with itself, and in its stead the others of
    its class count more. What is trusted is split by class: just left out, every sample would see too few of its own.
    """
    if view.influence is None or view.current.features is None:
        return torch.zeros(len(view.y), device=view.y.device)
    residual, features = task.residual(view.current.logits, view.y), view.current.features
    aligned: Tensor = ((residual @ view.influence) * features).sum(1)
    if view.parents is None or view.parents.current.features is None:
        return -aligned
    rows, labels, trusted = view.parents.rows, view.parents.y, view.parents.current.features
    theirs = task.residual(view.parents.current.logits, labels)
    own = (residual * theirs[rows]).sum(1) * (features * trusted[rows]).sum(1)
    alike = torch.empty_like(own)  # with the mean of the parent's class
    for label in sorted(set(labels[rows].tolist())):
        mine, kin = labels[rows] == label, labels == label
        mean = theirs[kin].T @ trusted[kin] / kin.sum()
        alike[mine] = ((residual[mine] @ mean) * features[mine]).sum(1)
    count = torch.bincount(labels)[labels[rows]]
    return (own - alike) * count / (len(labels) * (count - 1).clamp_min(1)) - aligned


def feature_shift(task: Task, view: View) -> Tensor:
    """Relative distance between the penultimate features now and then."""
    if view.current.features is None or view.historical.features is None:
        return torch.zeros(len(view.y), device=view.y.device)
    moved: Tensor = torch.linalg.vector_norm(view.current.features - view.historical.features, dim=1)
    size: Tensor = torch.linalg.vector_norm(view.historical.features, dim=1)
    return moved / size.clamp_min(1e-12)


def mahalanobis(task: Task, view: View) -> Tensor:
    """Squared Mahalanobis distance of the input to trusted inputs."""
    if view.parents is None:
        return view.familiarity.distance(view.x)
    return view.familiarity.leave_one_out(view.x, view.parents.x[view.parents.rows])


def grain(task: Task, view: View) -> Tensor:
    """Lower quartile of an image's second differences, in units of x: noise is everywhere, structure is not."""
    return view.roughness[0]


def evenness(task: Task, view: View) -> Tensor:
    """The same quartile relative to the mean, from 0 to about 1: high where all of an image is equally rough."""
    quartile, mean = view.roughness
    return quartile / (mean + 1e-4)


SIGNALS: dict[str, Signal] = {
    "discrepancy": discrepancy,
    "reverse": reverse,
    "midpoint": midpoint,
    "loss": loss,
    "historical_loss": historical_loss,
    "loss_change": loss_change,
    "harm": harm,
    "feature_shift": feature_shift,
    "mahalanobis": mahalanobis,
}
IMAGE_SIGNALS: dict[str, Signal] = {"grain": grain, "evenness": evenness}

DIVERGENCES = frozenset({"discrepancy", "reverse", "midpoint"})
OF_THE_INPUT = frozenset({"mahalanobis", *IMAGE_SIGNALS})


def signals(shape: Sequence[int]) -> dict[str, Signal]:
    """All signals of samples of this shape, those of images where it is one [c, h, w] that is large enough."""
    image = len(shape) == 3 and min(shape[1:]) >= LEAST_IMAGE
    return SIGNALS | IMAGE_SIGNALS if image else SIGNALS


def judged(chosen: EvidenceSet, name: str) -> bool:
    """Whether a signal of this name may give a sample away."""
    match chosen:
        case EvidenceSet.DISCREPANCY:
            return name == "discrepancy"
        case EvidenceSet.COMPANIONS:
            return name not in DIVERGENCES
        case EvidenceSet.MODEL:
            return name not in OF_THE_INPUT
        case EvidenceSet.NO_IMAGES:
            return name not in IMAGE_SIGNALS
        case EvidenceSet.ALL:
            return True


class Evidence:
    """Computes the matrix of signals (n, signals) for samples, against one historical model.

    The first column is the memorization discrepancy, the last ones are what the input alone tells; ``judged`` lists the
    columns that verdicts may rest on.
    """

    def __init__(self, network: Network, task: Task, chosen: EvidenceSet) -> None:
        self._task = task
        known = signals(network.recipe.inputs.shape)
        self._of_input = [signal for name, signal in known.items() if name in OF_THE_INPUT]
        self._of_outputs = [signal for name, signal in known.items() if name not in OF_THE_INPUT]
        self.names = tuple(sorted(known, key=OF_THE_INPUT.__contains__))
        self.judged = [column for column, name in enumerate(self.names) if judged(chosen, name)]

    def influence(self, current: Outputs, y: Tensor) -> Tensor | None:
        """Gradient (classes, features) of the mean loss on trusted samples with respect to the last layer."""
        if current.features is None:
            return None
        return self._task.residual(current.logits, y).T @ current.features / len(y)

    def of_input(self, view: View) -> Tensor:
        """The signals (n, k) that no model has a say in: they stay while the samples do."""
        return torch.stack([signal(self._task, view) for signal in self._of_input], dim=1)

    def matrix(self, view: View) -> Tensor:
        """Every signal (n, signals) of the samples in a view."""
        outputs = torch.stack([signal(self._task, view) for signal in self._of_outputs], dim=1)
        return torch.cat([outputs, self.of_input(view) if view.of_input is None else view.of_input], dim=1)


def lower_quartile(values: Tensor) -> Tensor:
    """The 25 % quantile of every row (n, k), linear between two values; a selection, since sorting takes long.

    There are at least two in a row.
    """
    place = 0.25 * (values.shape[1] - 1)
    lowest = values.topk(int(place) + 2, dim=1, largest=False, sorted=False).values
    above, below = lowest.topk(2, dim=1).values.unbind(1)
    return torch.lerp(below, above, place - int(place))


def _second_differences(x: Tensor) -> Tensor:
    """|x − mean of its two neighbours| along rows and columns of images (n, c, h, w), flat per image."""
    across = x[..., 1:-1] - (x[..., 2:] + x[..., :-2]) / 2
    down = x[..., 1:-1, :] - (x[..., 2:, :] + x[..., :-2, :]) / 2
    return torch.cat([across.flatten(1), down.flatten(1)], dim=1).abs()
