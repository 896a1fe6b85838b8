"""The probe set: small, trusted, never trained on, never published."""

from __future__ import annotations

import ctypes
import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from weir.core.calibration import smallest_size
from weir.core.config import GuardConfig
from weir.errors import InvalidProbe
from weir.types import GuardMode, InputSpec, ProbeInfo, State

# What a part decides must not be graded on the samples it was decided with. Fit and threshold serve together, each
# sample of them judged by what has not learned from it.
SHARES = {"fit": 0.4, "threshold": 0.3, "gate": 0.2, "report": 0.1}
LEAST_PER_CLASS = 4  # one for each part


class Part(NamedTuple):
    """Samples of one part of the probe set: x (n, *shape) as it was given, y (n,)."""

    x: Tensor
    y: Tensor


class ProbeSet:
    """Trusted samples, split by class and content into fit / threshold / gate / report parts."""

    def __init__(self, x: Tensor, y: Tensor, *, created_at: float, source: str) -> None:
        """Split the samples; raises InvalidProbe for what no probe set can be."""
        _check(x, y)
        self.x, self.y = x, y
        digest = hashlib.sha256(content(x) + content(y)).hexdigest()
        counts = torch.bincount(y).tolist()
        self.info = ProbeInfo(digest[:12], len(y), tuple(counts), created_at, source)
        self._parts = _split(y, seed=int(digest[:8], 16))

    def __len__(self) -> int:
        return len(self.y)

    def size(self, name: str) -> int:
        """How many samples a part has."""
        return len(self._parts[name])

    def part(self, name: str, rows: Tensor | None = None) -> Part:
        """One of fit, threshold, gate and report; of it these rows, or all. The samples are copied."""
        index = self._parts[name]
        index = index if rows is None else index[rows]
        return Part(self.x[index], self.y[index])

    def check(self, inputs: InputSpec, guard: GuardConfig) -> None:
        """Raise InvalidProbe unless every class is there and the parts are large enough for the configured rates."""
        if tuple(self.x.shape[1:]) != inputs.shape:
            raise InvalidProbe("probe", list(self.x.shape), f"shape [n, {', '.join(map(str, inputs.shape))}]")
        counts = torch.bincount(self.y, minlength=inputs.classes)
        if len(counts) > inputs.classes:
            raise InvalidProbe("probe", f"the label {len(counts) - 1}", f"labels from 0 to {inputs.classes - 1}")
        scarce = [label for label, count in enumerate(counts.tolist()) if count < LEAST_PER_CLASS]
        if scarce:
            raise InvalidProbe(
                "probe",
                ", ".join(f"class {label}: {int(counts[label])}" for label in scarce[:10]),
                f"at least {LEAST_PER_CLASS} samples of each of {inputs.classes} classes",
                code="probe_class_missing",
            )
        # The threshold part must do alone: were the largest of all scores the threshold, its true rate would vary as
        # much as its mean.
        have, need = len(self._parts["threshold"]), smallest_size(guard.sample_rate)
        if guard.mode is not GuardMode.OFF and have < need:
            raise InvalidProbe(
                "probe",
                f"{len(self)} samples, {have} of them for thresholds",
                f"about {round(need / SHARES['threshold'])} samples ({need} for thresholds) for a false-positive rate "
                f"of {guard.sample_rate:g}; or a rate of at least {math.ceil(1e5 / (have + 1)) / 1e5:g}",
                code="probe_too_small",
            )

    def state(self) -> State:
        """Everything a restart needs."""
        return State({"x": self.x, "y": self.y}, {"created_at": self.info.created_at, "source": self.info.source})

    @staticmethod
    def from_state(state: State) -> ProbeSet:
        """The probe set that ``state()`` described."""
        return ProbeSet(state.tensors["x"], state.tensors["y"], **state.values)


def _check(x: Tensor, y: Tensor) -> None:
    if y.dtype != torch.int64 or y.ndim != 1 or len(y) != len(x):
        raise InvalidProbe("probe", f"y {y.dtype} {list(y.shape)} for x {list(x.shape)}", "y int64 [n] for x [n, ...]")
    if len(y) and int(y.min()) < 0:
        raise InvalidProbe("probe", f"the label {int(y.min())}", "labels from 0")
    if not bool(x.isfinite().all()):
        raise InvalidProbe("probe", "NaN or an infinity in x", "numbers")


def _split(y: Tensor, *, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    by_class: dict[int, list[int]] = {label: [] for label in sorted(set(y.tolist()))}
    for sample in torch.randperm(len(y), generator=generator).tolist():
        by_class[int(y[sample])].append(sample)
    # Walking class by class while always serving the part furthest behind its share keeps every part stratified;
    # first each class gives one to every part.
    parts: dict[str, list[int]] = {name: [] for name in SHARES}
    for mine in by_class.values():
        for name, sample in zip(SHARES, mine, strict=False):
            parts[name].append(sample)
        for sample in mine[len(SHARES) :]:
            behind = min(SHARES, key=lambda name: (len(parts[name]) + 0.5) / SHARES[name])
            parts[behind].append(sample)
    return {name: torch.tensor(sorted(index), dtype=torch.int64) for name, index in parts.items()}


def content(tensor: Tensor) -> bytes:
    """The numbers of a tensor, in order, as bytes."""
    tensor = tensor.detach().cpu().contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes)  # core has no numpy, and a list of ints is slow
