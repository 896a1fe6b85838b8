"""Per-sample signals of poisoning, as one matrix: memorization discrepancy first, its companions after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from weir.core.familiarity import Familiarity
from weir.core.network import Network, Outputs, Weights
from weir.core.task import Task
from weir.errors import InvalidSetting


class Smooth(NamedTuple):
    """Images after a 3×3 median filter (n, …), and the current outputs on them."""

    x: Tensor
    current: Outputs


@dataclass(frozen=True, slots=True)
class View:
    """What a signal may look at: n samples with the current and the historical model's outputs on them.

    ``influence`` is the gradient (classes, features) of the trusted loss with respect to the last layer,
    ``familiarity`` what trusted inputs look like, learned from these very samples if ``inside``; ``smooth`` is there
    for images only.
    """

    x: Tensor
    y: Tensor
    current: Outputs
    historical: Outputs
    influence: Tensor | None
    familiarity: Familiarity
    inside: bool = False
    smooth: Smooth | None = None


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
    """First-order rise of the trusted loss when the last layer steps on this sample: −⟨∇ sample, ∇ trusted⟩."""
    if view.influence is None or view.current.features is None:
        return torch.zeros(len(view.y), device=view.y.device)
    residual = task.residual(view.current.logits, view.y)
    aligned: Tensor = ((residual @ view.influence) * view.current.features).sum(1)
    return -aligned


def feature_shift(task: Task, view: View) -> Tensor:
    """Relative distance between the penultimate features now and then."""
    if view.current.features is None or view.historical.features is None:
        return torch.zeros(len(view.y), device=view.y.device)
    moved: Tensor = torch.linalg.vector_norm(view.current.features - view.historical.features, dim=1)
    size: Tensor = torch.linalg.vector_norm(view.historical.features, dim=1)
    return moved / size.clamp_min(1e-12)


def mahalanobis(task: Task, view: View) -> Tensor:
    """Squared Mahalanobis distance of the input to trusted inputs."""
    return view.familiarity.leave_one_out(view.x) if view.inside else view.familiarity.distance(view.x)


def roughness(task: Task, view: View) -> Tensor:
    """Mean distance between an image and its median-filtered self, in units of x."""
    return (view.x - _smooth(view).x).abs().flatten(1).mean(1)


def brittleness(task: Task, view: View) -> Tensor:
    """Divergence of the current output from that on the median-filtered image, nats."""
    return task.discrepancy(view.current.logits, _smooth(view).current.logits)


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
IMAGE_SIGNALS: dict[str, Signal] = {"roughness": roughness, "brittleness": brittleness}


class Evidence:
    """Computes the matrix of signals (n, signals) for samples, against one historical model."""

    def __init__(self, network: Network, task: Task, *, images: bool) -> None:
        """Raises InvalidSetting when image signals are wanted of what is no image."""
        shape = network.recipe.inputs.shape
        if images and (len(shape) != 3 or min(shape[1:]) < 2):
            raise InvalidSetting("image_evidence", True, f"false, since x of shape {list(shape)} is no image [c, h, w]")
        self._network = network
        self._task = task
        self._images = images
        self._signals = SIGNALS | (IMAGE_SIGNALS if images else {})

    @property
    def names(self) -> tuple[str, ...]:
        """The signals' names, in the order of the columns; the first is the discrepancy."""
        return tuple(self._signals)

    def influence(self, current: Outputs, y: Tensor) -> Tensor | None:
        """Gradient (classes, features) of the mean loss on trusted samples with respect to the last layer."""
        if current.features is None:
            return None
        return self._task.residual(current.logits, y).T @ current.features / len(y)

    def matrix(
        self,
        x: Tensor,
        y: Tensor,
        current: Outputs,
        weights: Weights,
        *,
        influence: Tensor | None,
        familiarity: Familiarity,
        inside: bool = False,
    ) -> Tensor:
        """Signals (n, signals) of prepared samples whose current outputs are known; for the rest see View."""
        historical = self._network.outputs(x, weights)
        smooth = self._smoothed(x) if self._images else None
        view = View(x, y, current, historical, influence, familiarity, inside, smooth)
        return torch.stack([signal(self._task, view) for signal in self._signals.values()], dim=1)

    def _smoothed(self, x: Tensor) -> Smooth:
        filtered = median_filter(x)
        return Smooth(filtered, self._network.outputs(filtered))


def _smooth(view: View) -> Smooth:
    if view.smooth is None:
        raise ValueError("image signals need the median-filtered images in their view")
    return view.smooth


def median_filter(x: Tensor) -> Tensor:
    """Images (n, c, h, w) with every pixel replaced by the median of its 3×3 neighbourhood, edges mirrored."""
    padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    patches = padded.unfold(2, 3, 1).unfold(3, 3, 1)
    return patches.flatten(4).median(dim=4).values
