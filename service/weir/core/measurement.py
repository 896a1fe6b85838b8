"""Evidence of samples, and of what is trusted, against one snapshot: everything that sends samples forward to judge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weir.core.calibration import Trusted
from weir.core.config import GuardConfig
from weir.core.evidence import Evidence, View
from weir.core.familiarity import Familiarity
from weir.core.network import Network, Outputs
from weir.core.probe import ProbeSet
from weir.core.snapshots import Snapshot
from weir.core.task import Task
from weir.core.vaccine import Poisoner, Scale, Strain, Vaccine

VACCINE_SAMPLES = 200  # trusted samples that poison is made from: more cost time and tell little


class Measurement:
    """Measures the evidence of samples and of the probe set's parts; forgets nothing it may use again."""

    def __init__(self, network: Network, task: Task, config: GuardConfig, poisoner: Poisoner | None) -> None:
        self._network = network
        self._task = task
        self._poisoner = poisoner if config.vaccine else None
        self._evidence = Evidence(network, task, config.evidence)
        self._familiarity: Familiarity | None = None
        self._probe: ProbeSet | None = None
        self._historical: dict[str, tuple[Snapshot, Outputs]] = {}
        self.unvaccinated_because: str | None = None if self._poisoner else "there is no poisoner"

    @property
    def names(self) -> tuple[str, ...]:
        """The signals' names, in the order of the columns."""
        return self._evidence.names

    @property
    def judged(self) -> Sequence[int]:
        """The columns that verdicts may rest on."""
        return self._evidence.judged

    @property
    def vaccinates(self) -> bool:
        """Whether there is a poisoner to make vaccines with."""
        return self._poisoner is not None

    @property
    def probe(self) -> ProbeSet | None:
        """The probe set in use."""
        return self._probe

    @probe.setter
    def probe(self, probe: ProbeSet | None) -> None:
        self._probe = probe
        self._familiarity = Familiarity(self._part("fit")[0]) if probe else None
        self._historical.clear()

    def outputs(self, x: Tensor, snapshot: Snapshot | None = None) -> Outputs:
        """Outputs of the current model, or of a snapshot, on prepared samples; no gradients."""
        with torch.no_grad():
            return self._network.outputs(x, snapshot.weights if snapshot else None)

    def matrix(self, x: Tensor, y: Tensor, current: Outputs, snapshot: Snapshot, influence: Tensor | None) -> Tensor:
        """Signals (n, signals) of prepared samples whose current outputs are known."""
        return self._signals(x, y, current, self.outputs(x, snapshot), influence)

    def trusted(self, snapshot: Snapshot) -> Trusted:
        """The evidence of the probe set's fit and threshold parts now."""
        (fit, fit_y), (threshold, labels) = self._part("fit"), self._part("threshold")
        current = self.outputs(fit)
        influence = self._evidence.influence(current, fit_y)
        fitted, held_out = self._remembered("fit", fit, snapshot), self._remembered("threshold", threshold, snapshot)
        return Trusted(
            fit=self._signals(fit, fit_y, current, fitted, influence, parents=fit),
            threshold=self._signals(threshold, labels, self.outputs(threshold), held_out, influence),
            labels=labels,
            influence=influence,
        )

    def vaccine(self, snapshot: Snapshot, trusted: Trusted, *, seed: int) -> Vaccine | None:
        """Poison crafted from the fit part against the current model, and how to tell it; None without a poisoner."""
        if self._poisoner is None:
            return None
        x, y = self._part("fit")
        rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:VACCINE_SAMPLES].to(y.device)
        x, y = x[rows], y[rows]
        prepare = self._network.prepare
        try:
            strains = self._poisoner(self._network.module, x, y, low=prepare.low, high=prepare.high, seed=seed)
        except RuntimeError as error:  # a model without second derivatives, say: no vaccine, but learning goes on
            self.unvaccinated_because = f"poison cannot be crafted against this model: {error}"
            return None
        self.unvaccinated_because = None
        scale = Scale.of(trusted.fit[:, self.judged])
        crafted: dict[str, list[Tensor]] = {}
        for strain in strains:
            evidence = self._of_strain(strain, x, snapshot, trusted.influence)[:, self.judged]
            crafted.setdefault(strain.name, []).append(scale.standardise(evidence))
        clean = scale.standardise(trusted.fit[:, self.judged])
        return Vaccine.fit(clean, {name: torch.cat(parts) for name, parts in crafted.items()})

    def _of_strain(self, strain: Strain, x: Tensor, snapshot: Snapshot, influence: Tensor | None) -> Tensor:
        current, historical = self.outputs(strain.x), self.outputs(strain.x, snapshot)
        return self._signals(strain.x, strain.y, current, historical, influence, parents=x[strain.parents])

    def _signals(
        self,
        x: Tensor,
        y: Tensor,
        current: Outputs,
        historical: Outputs,
        influence: Tensor | None,
        *,
        parents: Tensor | None = None,
    ) -> Tensor:
        assert self._familiarity is not None
        with torch.no_grad():
            return self._evidence.matrix(View(x, y, current, historical, influence, self._familiarity, parents))

    def _remembered(self, part: str, x: Tensor, snapshot: Snapshot) -> Outputs:
        """A snapshot's outputs on a part of the probe set, which change only when one of the two is replaced."""
        known = self._historical.get(part)
        if known is None or known[0] is not snapshot:
            known = self._historical[part] = (snapshot, self.outputs(x, snapshot))
        return known[1]

    def _part(self, name: str) -> tuple[Tensor, Tensor]:
        assert self._probe is not None
        part = self._probe.part(name)
        return self._network.prepare(part.x), part.y.to(self._network.device)
