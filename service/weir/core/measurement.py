"""Evidence of samples, and of what is trusted, against one snapshot: everything that sends samples forward to judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from weir.core.calibration import Trusted
from weir.core.config import GuardConfig
from weir.core.evidence import Evidence, View
from weir.core.familiarity import Familiarity
from weir.core.network import Network, Outputs
from weir.core.probe import Part, ProbeSet
from weir.core.ranks import ALONE, Ranks
from weir.core.snapshots import Snapshot
from weir.core.task import Task
from weir.core.vaccine import Poisoner, Scale, Strain, Vaccine
from weir.types import State

NONE = Outputs(torch.empty(0), None)
VACCINE_SAMPLES = 200  # trusted samples that poison is made from: more cost time and tell little


class Turns:
    """Who is next, round and round."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = rows
        self.next = 0

    def take(self, count: int) -> list[int]:
        """The next ``count``, each once at most."""
        places = [(self.next + place) % len(self._rows) for place in range(min(count, len(self._rows)))]
        self.next = (places[-1] + 1) % len(self._rows)
        return [self._rows[place] for place in places]


class Measurement:
    """Measures the evidence of samples and of the probe set's parts; forgets nothing it may use again."""

    def __init__(
        self, network: Network, task: Task, config: GuardConfig, poisoner: Poisoner | None, ranks: Ranks = ALONE
    ) -> None:
        self._network = network
        self._task = task
        self._ranks = ranks
        self._poisoner = poisoner if config.vaccine else None
        self._evidence = Evidence(network, task, config.evidence)
        self._familiarity: Familiarity | None = None
        self._probe: ProbeSet | None = None
        self._x = torch.empty(0)  # prepared samples of the probe set's fit and threshold parts
        self._fit = self._held_out = Part(self._x, torch.empty(0))
        self._of_input: list[Tensor] = []
        self._current: Outputs | None = None
        self._historical: tuple[Snapshot, Outputs] | None = None
        self._fit_turns = self._held_out_turns = Turns(range(0))
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
        self._current = self._historical = None
        if probe is None:
            return
        fit, held_out = probe.part("fit"), probe.part("threshold")
        self._x, fitted = self._network.prepare(torch.cat([fit.x, held_out.x])), len(fit.y)
        self._fit = Part(self._x[:fitted], fit.y.to(self._network.device))
        self._held_out = Part(self._x[fitted:], held_out.y.to(self._network.device))
        self._fit_turns, self._held_out_turns = Turns(range(fitted)), Turns(self.held_out)
        self._familiarity = Familiarity(self._fit.x)
        views = self._view(self._fit, parents=self._fit.x), self._view(self._held_out)
        self._of_input = [self._evidence.of_input(view) for view in views]

    @property
    def size(self) -> int:
        """How many samples of the probe set are measured: those of its fit and threshold parts."""
        return len(self._fit.y) + len(self._held_out.y)

    @property
    def held_out(self) -> range:
        """The samples of the threshold part, as indices; those of the fit part come before."""
        return range(len(self._fit.y), self.size)

    def outputs(self, x: Tensor, snapshot: Snapshot | None = None) -> Outputs:
        """Outputs of the current model, or of a snapshot, on prepared samples; no gradients."""
        with torch.no_grad():
            return self._network.outputs(x, snapshot.scoring if snapshot else None)

    def whole(self, x: Tensor, y: Tensor, current: Outputs, snapshot: Snapshot, influence: Tensor | None) -> Tensor:
        """Signals (n, signals), on the CPU, of all ranks' samples, with labels ``y`` (n,), from this rank's own."""
        with self._ranks.together("evidence"):
            own = self.matrix(x, self._ranks.own(y), current, snapshot, influence)
        return self._ranks.gather(own, len(y))

    def matrix(self, x: Tensor, y: Tensor, current: Outputs, snapshot: Snapshot, influence: Tensor | None) -> Tensor:
        """Signals (n, signals), on the CPU, of prepared samples whose current outputs are known."""
        return self._signals(View(x, y, current, self.outputs(x, snapshot), influence, self._known))

    def measure(self, rows: Iterable[int] | None = None) -> None:
        """Measure these trusted samples under the current model; all of them for None, and at first."""
        if self._current is None or rows is None:
            self._current = self._of_probe(self._x)
            self._fit_turns.next = self._held_out_turns.next = 0  # else a restart in between would go on elsewhere
            return
        there = torch.tensor(sorted(set(rows)), device=self._x.device)
        for known, now in zip(self._current, self._of_probe(self._x[there]), strict=True):
            if known is not None and now is not None:
                known[there] = now

    def next_fit(self, rows: int) -> list[int]:
        """Whose turn it is in the fit part to be measured, as indices."""
        return self._fit_turns.take(rows)

    def next_held_out(self, rows: int) -> list[int]:
        """The same in the threshold part."""
        return self._held_out_turns.take(rows)

    def trusted(self, snapshot: Snapshot) -> Trusted:
        """The evidence of the probe set's fit and threshold parts, as they were last measured."""
        if self._current is None:
            self.measure()
        assert self._current is not None
        fitted, held_out = self._split(self._current)
        fitted_then, held_out_then = self._split(self._remembered(snapshot))
        influence = self._evidence.influence(fitted, self._fit.y)
        return Trusted(
            fit=self._signals(self._view(self._fit, fitted, fitted_then, influence), self._of_input[0]),
            threshold=self._signals(self._view(self._held_out, held_out, held_out_then, influence), self._of_input[1]),
            labels=self._held_out.y.cpu(),
            influence=influence,
        )

    def state(self) -> State:
        """What was measured of the probe set, and where that goes on; nothing where nothing was."""
        if self._current is None:
            return State({}, {})
        held = {"logits": self._current.logits, "features": self._current.features}
        turns = [self._fit_turns.next, self._held_out_turns.next]
        return State({name: t.clone() for name, t in held.items() if t is not None}, {"turns": turns})

    def load_state(self, state: State) -> None:
        """Replace what was measured of this probe set."""
        # Copies: they are overwritten row by row.
        held = {name: tensor.to(self._network.device, copy=True) for name, tensor in state.tensors.items()}
        self._current = Outputs(held["logits"], held.get("features"))
        # Earlier versions had one turn for both parts: it begins anew.
        self._fit_turns.next, self._held_out_turns.next = state.values.get("turns", [0, 0])

    def vaccine(self, snapshot: Snapshot, trusted: Trusted, *, seed: int) -> Vaccine | None:
        """Poison crafted from the fit part against the current model, and how to tell it; None without a poisoner."""
        if self._poisoner is None:
            return None
        x, y = self._fit
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
        vaccine = Vaccine.fit(clean, {name: torch.cat(parts) for name, parts in crafted.items()})
        return replace(vaccine, weights=self._ranks.agree(vaccine.weights))

    def _of_probe(self, x: Tensor, snapshot: Snapshot | None = None) -> Outputs:
        """Outputs on prepared samples (n, …) of the probe set, each rank having made its own of them."""
        with self._ranks.together("probe"):
            logits, features = self.outputs(self._ranks.own(x), snapshot)
        whole = self._ranks.gather(logits, len(x))
        return Outputs(whole, None if features is None else self._ranks.gather(features, len(x)))

    def _of_strain(self, strain: Strain, x: Tensor, snapshot: Snapshot, influence: Tensor | None) -> Tensor:
        current, historical = self.outputs(strain.x), self.outputs(strain.x, snapshot)
        parents = x[strain.parents]
        return self._signals(View(strain.x, strain.y, current, historical, influence, self._known, parents))

    def _signals(self, view: View, of_input: Tensor | None = None) -> Tensor:
        """The matrix of signals, read from the device once: what is judged with it is too small to be worth one."""
        with torch.no_grad():
            return self._evidence.matrix(view, of_input).cpu()

    def _view(
        self,
        part: Part,
        current: Outputs = NONE,
        historical: Outputs = NONE,
        influence: Tensor | None = None,
        *,
        parents: Tensor | None = None,
    ) -> View:
        return View(part.x, part.y, current, historical, influence, self._known, parents)

    def _remembered(self, snapshot: Snapshot) -> Outputs:
        """A snapshot's outputs on the probe set, which change only when one of the two is replaced."""
        if self._historical is None or self._historical[0] is not snapshot:
            self._historical = snapshot, self._of_probe(self._x, snapshot)
        return self._historical[1]

    def _split(self, outputs: Outputs) -> tuple[Outputs, Outputs]:
        """Outputs of the fit part, and of the threshold part."""
        logits, features, fitted = *outputs, len(self._fit.y)
        if features is None:
            return Outputs(logits[:fitted], None), Outputs(logits[fitted:], None)
        return Outputs(logits[:fitted], features[:fitted]), Outputs(logits[fitted:], features[fitted:])

    @property
    def _known(self) -> Familiarity:
        assert self._familiarity is not None
        return self._familiarity
