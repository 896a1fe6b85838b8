"""Evidence of samples, and of what is trusted, against one snapshot: everything that sends samples forward to judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from weir.core.calibration import Trusted
from weir.core.config import GuardConfig
from weir.core.evidence import Evidence, Parents, View
from weir.core.familiarity import Familiarity
from weir.core.network import Network, Outputs
from weir.core.probe import Part, ProbeSet
from weir.core.ranks import ALONE, Ranks
from weir.core.snapshots import Snapshot
from weir.core.task import Task
from weir.core.vaccine import Labelled, Poisoner, Scale, Strain, Vaccine, folds_of
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
        self._trusted = Part(torch.empty(0), torch.empty(0))  # prepared: the probe set's fit and threshold parts
        self._of_input: Tensor | None = None
        self._current: Outputs | None = None
        self._historical: tuple[Snapshot, Outputs] | None = None
        self._turns = Turns(range(0))
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
        parts = probe.part("fit"), probe.part("threshold")
        x, y = (torch.cat(of) for of in zip(*parts, strict=True))
        self._trusted = Part(self._network.prepare(x), y.to(self._network.device))
        # By lot: what stands side by side in a probe set, as its classes may, moves alike.
        self._turns = Turns(torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).tolist())
        self._familiarity, self._of_input = Familiarity(self._trusted.x), None
        self._of_input = self._evidence.of_input(self._view(NONE, NONE, None))

    @property
    def size(self) -> int:
        """How many samples of the probe set are measured: those of its fit and threshold parts."""
        return len(self._trusted.y)

    def outputs(self, x: Tensor, snapshot: Snapshot | None = None) -> Outputs:
        """Outputs of the current model, or of a snapshot, on prepared samples; no gradients."""
        with torch.no_grad():
            return self._network.outputs(x, snapshot.scoring if snapshot else None)

    def view(self, x: Tensor, y: Tensor, current: Outputs, snapshot: Snapshot) -> View:
        """Prepared samples ``x`` labelled ``y`` (n,), whose current outputs are known, beside a snapshot's.

        What their input alone tells is found now: a view may be measured more than once.
        """
        view = View(x, y, current, self.outputs(x, snapshot), None, self._known)
        return replace(view, of_input=self._evidence.of_input(view))

    def whole(self, view: View, n: int) -> Tensor:
        """Signals (n, signals), on the CPU, of all ranks' samples, from this rank's view of its own."""
        with self._ranks.together("evidence"):
            own = self._signals(view)
        return self._ranks.gather(own, n)

    def matrix(self, x: Tensor, y: Tensor, current: Outputs, snapshot: Snapshot, influence: Tensor | None) -> Tensor:
        """Signals (n, signals), on the CPU, of prepared samples whose current outputs are known."""
        return self._signals(replace(self.view(x, y, current, snapshot), influence=influence))

    def measure(self, rows: Iterable[int] | None = None) -> None:
        """Measure these trusted samples under the current model; all of them for None, and at first."""
        if self._current is None or rows is None:
            self._current = self._of_probe(self._trusted.x)
            self._turns.next = 0  # else a restart in between would go on elsewhere
            return
        there = torch.tensor(sorted(set(rows)), device=self._trusted.x.device)
        for known, now in zip(self._current, self._of_probe(self._trusted.x[there]), strict=True):
            if known is not None and now is not None:
                known[there] = now

    def next_turn(self, rows: int) -> list[int]:
        """Whose turn it is to be measured, as indices."""
        return self._turns.take(rows)

    def trusted(self, snapshot: Snapshot) -> Trusted:
        """The evidence of the probe set's fit and threshold parts, as they were last measured."""
        if self._current is None:
            self.measure()
        assert self._current is not None
        influence = self._evidence.influence(self._current, self._trusted.y)
        view = self._view(self._current, self._remembered(snapshot), influence)
        return Trusted(self._signals(view), self._trusted.y.cpu(), influence)

    def state(self) -> State:
        """What was measured of the probe set, and where that goes on; nothing where nothing was."""
        if self._current is None:
            return State({}, {})
        held = {"logits": self._current.logits, "features": self._current.features}
        return State({name: t.clone() for name, t in held.items() if t is not None}, {"next": self._turns.next})

    def load_state(self, state: State) -> None:
        """Replace what was measured of this probe set."""
        # Copies: they are overwritten row by row.
        held = {name: tensor.to(self._network.device, copy=True) for name, tensor in state.tensors.items()}
        self._current = Outputs(held["logits"], held.get("features"))
        self._turns.next = state.values["next"]

    def vaccine(self, snapshot: Snapshot, trusted: Trusted, *, seed: int) -> Vaccine | None:
        """Poison crafted from trusted samples against the current model, and how to tell it; None without a poisoner.

        ``trusted`` is their evidence, measured under this model and snapshot.
        """
        if self._poisoner is None:
            return None
        x, y = self._trusted
        rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:VACCINE_SAMPLES].to(y.device)
        prepare = self._network.prepare
        try:
            strains = self._poisoner(
                self._network.module, x[rows], y[rows], low=prepare.low, high=prepare.high, seed=seed
            )
        except RuntimeError as error:  # a model without second derivatives, say: no vaccine, but learning goes on
            self.unvaccinated_because = f"poison cannot be crafted against this model: {error}"
            return None
        self.unvaccinated_because = None
        clean, folds = trusted.evidence[:, self.judged], folds_of(trusted.labels)
        scale = Scale.of(clean)
        crafted: dict[str, list[Labelled]] = {}
        for strain in strains:
            parents = rows[strain.parents]
            evidence = self._of_strain(strain, parents, snapshot, trusted.influence)[:, self.judged]
            made = Labelled(scale.standardise(evidence), folds[parents.to(folds.device)])
            crafted.setdefault(strain.name, []).append(made)
        together = {
            name: Labelled(*(torch.cat(of) for of in zip(*parts, strict=True))) for name, parts in crafted.items()
        }
        vaccine = Vaccine.fit(Labelled(scale.standardise(clean), folds), together)
        agree = self._ranks.agree
        return replace(vaccine, weights=agree(vaccine.weights), held_out=agree(vaccine.held_out))

    def _of_probe(self, x: Tensor, snapshot: Snapshot | None = None) -> Outputs:
        """Outputs on prepared samples (n, …) of the probe set, each rank having made its own of them."""
        with self._ranks.together("probe"):
            logits, features = self.outputs(self._ranks.own(x), snapshot)
        whole = self._ranks.gather(logits, len(x))
        return Outputs(whole, None if features is None else self._ranks.gather(features, len(x)))

    def _of_strain(self, strain: Strain, rows: Tensor, snapshot: Snapshot, influence: Tensor | None) -> Tensor:
        """The evidence of what was made from these rows (n,) of what is trusted."""
        assert self._current is not None
        parents = Parents(rows, *self._trusted, self._current)
        current, historical = self.outputs(strain.x), self.outputs(strain.x, snapshot)
        return self._signals(View(strain.x, strain.y, current, historical, influence, self._known, parents))

    def _signals(self, view: View) -> Tensor:
        """The matrix of signals, read from the device once: what is judged with it is too small to be worth one."""
        with torch.no_grad():
            return self._evidence.matrix(view).cpu()

    def _view(self, current: Outputs, historical: Outputs, influence: Tensor | None) -> View:
        """What is trusted, each sample as if it were not known."""
        parents = Parents(torch.arange(self.size, device=self._trusted.y.device), *self._trusted, current)
        return View(*self._trusted, current, historical, influence, self._known, parents, self._of_input)

    def _remembered(self, snapshot: Snapshot) -> Outputs:
        """A snapshot's outputs on the probe set, which change only when one of the two is replaced."""
        if self._historical is None or self._historical[0] is not snapshot:
            self._historical = snapshot, self._of_probe(self._trusted.x, snapshot)
        return self._historical[1]

    @property
    def _known(self) -> Familiarity:
        assert self._familiarity is not None
        return self._familiarity
