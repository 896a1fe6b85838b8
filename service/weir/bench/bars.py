"""The bars that a guard must meet, scenario by scenario, on figures that are means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from weir.bench.figures import upper_bound

Figures = Mapping[str, Any]

CLOSE = 0.01  # accuracy that an attack may cost
PLASTICITY = 0.95
ROOM = 0.05  # accuracy that an unguarded model must gain before a share of its gain says anything
ABOVE_RATE = 0.005  # share of honest samples that may be touched above the configured rate
STOPPED = 0.99
ALARMS = 0.001  # per clean batch
FOLLOWED = 0.90  # of the unguarded gain, in a world that changes
CALLED_POISON = 0.05  # per batch of a world that changes
NAMED = 10  # batches of a hostile producer
NEAR = 0.03  # accuracy that an attacker who knows the guard may cost
BLAMED = 0.003  # per honest batch: what none in a thousand can show


@dataclass(frozen=True, slots=True)
class Bar:
    """What is asked of one figure, in words, what was measured, and whether that is enough.

    ``met`` is None where the bar does not apply, or where too little was seen to tell: then it is ``open``. ``by`` says
    how much a missed bar lacks; ``value`` and ``bound`` are what was compared.
    """

    name: str
    measured: str
    met: bool | None
    open: bool = False
    by: str = ""
    value: float | None = None
    bound: float | None = None

    @property
    def said(self) -> str:
        """The bar and what was measured, in words."""
        return f"{self.name}: {self.measured}" + (f", by {self.by}" if self.by else "")


def bars(scenario: str, figures: Figures) -> list[Bar]:
    """The bars of a scenario for one guard's figures."""
    return [bar for make in BARS[scenario] for bar in make(figures)]


def _least(name: str, value: float | None, bound: float, show: str = "{:.2f}") -> Bar:
    return _compared(f"{name} ≥ {show.format(bound)}", value, bound, show, above=True)


def _most(name: str, value: float | None, bound: float, show: str = "{:.1%}") -> Bar:
    return _compared(f"{name} ≤ {show.format(bound)}", value, bound, show, above=False)


def _compared(name: str, value: float | None, bound: float, show: str, *, above: bool) -> Bar:
    if value is None:
        return Bar(name, "–", None, bound=bound)
    met = value >= bound if above else value <= bound
    short = "" if met else show.format(abs(value - bound))
    return Bar(name, show.format(value), met, by=short, value=value, bound=bound)


def _cost(f: Figures) -> float | None:
    """Accuracy that the attack has cost when it ends, against the guard's own reference."""
    return None if f["accuracy_after_trigger"] is None else f["accuracy_reference"] - f["accuracy_after_trigger"]


def _near(f: Figures) -> list[Bar]:
    return [_most("cost after", _cost(f), NEAR, "{:.2%}")]


def _protected(f: Figures) -> list[Bar]:
    """Within a point of the guard's own reference, when the attack has ended and at the end."""
    final = None if f["accuracy_reference_final"] is None else f["accuracy_reference_final"] - f["accuracy_final"]
    return [_most("cost after", _cost(f), CLOSE, "{:.2%}"), _most("cost at the end", final, CLOSE, "{:.2%}")]


def _learned(f: Figures) -> list[Bar]:
    return [_least("gain / reference gain", f["gain_ratio"] if _room(f) else None, PLASTICITY)]


def _beats_published(f: Figures) -> list[Bar]:
    rule = f["published_after_trigger"]
    return [] if rule is None else [_least("after, DSC rule's", f["accuracy_after_trigger"], rule, "{:.1%}")]


def _stopped(f: Figures) -> list[Bar]:
    return [_least("poison stopped", f["held_poison_ratio"] + f["corrected_poison_ratio"], STOPPED, "{:.1%}")]


def _detected(f: Figures) -> list[Bar]:
    return [
        _least("AUROC", f["auroc"], 0.95),
        _least("AUROC model-only", f["auroc_model_only"], 0.85),
        _most("honest touched", f["touched_clean_ratio"], 0.10),
    ]


def _plastic(f: Figures) -> list[Bar]:
    return [_least("plasticity", f["plasticity_ratio"] if _room(f) else None, PLASTICITY)]


def _room(f: Figures) -> bool:
    return bool(f["unguarded_gain"] >= ROOM)


def _sparing(f: Figures) -> list[Bar]:
    bound = f["sample_rate"] + ABOVE_RATE
    return [
        _most("honest touched", f["touched_clean_ratio"], bound),
        _rare(f"alarms / batch ≤ {ALARMS:.1%}", f["alarms"], f["batches"], ALARMS),
    ]


def _rare(name: str, events: int, trials: int, rate: float) -> Bar:
    """Missed when too many were seen, met when the 95 % bound is low enough, open between."""
    bound = upper_bound(events, trials)
    measured = f"{events} in {trials}"
    if bound is None:
        return Bar(name, measured, None, bound=rate)
    seen = events / trials
    if seen > rate:
        return Bar(name, measured, False, by=f"{seen - rate:.1%}", value=seen, bound=rate)
    proven = bound <= rate
    words = f"{measured}, bounded only at {bound:.1%}"
    return Bar(name, words, True if proven else None, open=not proven, value=seen, bound=rate)


def _patient(f: Figures) -> list[Bar]:
    return [_most("honest touched", f["touched_clean_ratio"], 0.10)]


def _fair(f: Figures) -> list[Bar]:
    return [_most("worst class touched", max(f["touched_per_class"]), 0.02)]


def _following(f: Figures) -> list[Bar]:
    """Learns on; says that the world has changed; and blames no one: an alarm that touches a batch calls it poison."""
    return [
        _least("gain / unguarded gain", f["plasticity_ratio"], FOLLOWED),
        _least("steps called drift", f["drift_steps"], 1, "{:.0f}"),
        _most("batches called poison", f["called_poison"] / f["batches"], CALLED_POISON),
    ]


def _named(f: Figures) -> list[Bar]:
    named = f["named_after"]
    met = named is not None and named <= NAMED
    late = f"{named - NAMED:.0f} batches" if named is not None and not met else ""
    measured = "never" if named is None else f"after {named:.0f}"
    return [
        Bar(f"hostile named within {NAMED} batches", measured, met, by=late, value=named, bound=NAMED),
        _rare(f"honest blamed ≤ {BLAMED:.1%}", f["blamed_honest"], f["honest_batches"], BLAMED),
    ]


def _closed(f: Figures) -> list[Bar]:
    return [_most("attack success", f["attack_success_rate"], 0.05)]


def _steady(f: Figures) -> list[Bar]:
    shift = f["threshold_shift"]
    return [_most("threshold moved", None if shift is None else abs(shift), 0.05)]


BARS: dict[str, tuple[Callable[[Figures], list[Bar]], ...]] = {
    "clean": (_plastic, _sparing),
    "accumulative": (_protected, _learned, _beats_published, _stopped, _plastic),
    "mixed": (_protected, _detected, _plastic),
    "producer": (_protected, _named, _plastic),
    "label_flip": (_protected, _plastic),
    "label_flip_pairwise": (_protected, _plastic),
    "backdoor": (_protected, _closed, _plastic),
    "skewed": (_fair, _plastic),
    "noisy_labels": (_patient, _plastic),
    "ratchet": (_protected, _steady, _plastic),
    "adaptive": (_near, _plastic),
    "drift_gradual": (_following,),
    "drift_sudden": (_following,),
    "drift_crowd": (_following,),
    "drift_cover": (_protected, _stopped, _following),
}
