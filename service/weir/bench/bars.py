"""The bars that a guard must meet, scenario by scenario, on figures that are means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from weir.bench.figures import upper_bound

Figures = Mapping[str, Any]

CLOSE = 0.01  # accuracy that an attack may cost
LIMIT = 0.03  # and one that knows everything but the probe set
PLASTICITY = 0.95
ROOM = 0.05  # accuracy that an unguarded model must gain before a share of its gain says anything
ABOVE_RATE = 0.005  # share of honest samples that may be touched above the configured rate
STOPPED = 0.99
ALARMS = 0.001  # per clean batch
BLAMED = 0.003  # per honest batch: what none in a thousand can show


@dataclass(frozen=True, slots=True)
class Bar:
    """What is asked of one figure, in words, what was measured, and whether that is enough.

    ``met`` is None where the bar does not apply, or where too little was seen to tell: then it is ``open``.
    """

    name: str
    measured: str
    met: bool | None
    open: bool = False


def bars(scenario: str, figures: Figures) -> list[Bar]:
    """The bars of a scenario for one guard's figures."""
    return [bar for make in BARS[scenario] for bar in make(figures)]


def _least(name: str, value: float | None, bound: float, show: str = "{:.2f}") -> Bar:
    return Bar(f"{name} ≥ {show.format(bound)}", _shown(value, show), None if value is None else value >= bound)


def _most(name: str, value: float | None, bound: float, show: str = "{:.1%}") -> Bar:
    return Bar(f"{name} ≤ {show.format(bound)}", _shown(value, show), None if value is None else value <= bound)


def _shown(value: float | None, show: str) -> str:
    return "–" if value is None else show.format(value)


def _cost(f: Figures) -> float | None:
    """Accuracy that the attack has cost when it ends, against the guard's own reference."""
    return None if f["accuracy_after_trigger"] is None else f["accuracy_reference"] - f["accuracy_after_trigger"]


def _limit(f: Figures) -> list[Bar]:
    return [_most("cost after", _cost(f), LIMIT, "{:.2%}")]


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
    bound = 0.95 if f["auroc_model_only"] is None else 0.85
    return [_least("AUROC", f["auroc"], bound), _most("honest touched", f["touched_clean_ratio"], 0.10)]


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
    if bound is None or events > rate * trials:
        return Bar(name, measured, None if bound is None else False)
    proven = bound <= rate
    return Bar(name, f"{measured}, bounded only at {bound:.1%}", True if proven else None, open=not proven)


def _patient(f: Figures) -> list[Bar]:
    return [_most("honest touched", f["touched_clean_ratio"], 0.10)]


def _fair(f: Figures) -> list[Bar]:
    return [_most("worst class touched", max(f["touched_per_class"]), 0.02)]


def _following(f: Figures) -> list[Bar]:
    return [
        _least("gain / unguarded gain", f["plasticity_ratio"], 0.90),
        Bar("not called poison", f"{f['alarms']:.0f} alarms in {f['batches']:.0f} batches", f["alarms"] == 0),
    ]


def _named(f: Figures) -> list[Bar]:
    named = f["named_after"]
    return [
        Bar("hostile named within 10 batches", "never" if named is None else f"after {named:.0f}", _within(named)),
        _rare(f"honest blamed ≤ {BLAMED:.1%}", f["blamed_honest"], f["honest_batches"], BLAMED),
    ]


def _within(named: float | None) -> bool:
    return named is not None and named <= 10


def _closed(f: Figures) -> list[Bar]:
    return [_most("attack success", f["attack_success_rate"], 0.05)]


def _steady(f: Figures) -> list[Bar]:
    shift = f["threshold_shift"]
    return [_most("threshold moved", None if shift is None else abs(shift), 0.05)]


BARS: dict[str, tuple[Callable[[Figures], list[Bar]], ...]] = {
    "clean": (_plastic, _sparing),
    "accumulative": (_protected, _learned, _beats_published, _stopped, _plastic),
    "adaptive": (_limit, _plastic),
    "mixed": (_protected, _detected, _plastic),
    "producer": (_protected, _named, _plastic),
    "label_flip": (_protected, _plastic),
    "label_flip_pairwise": (_protected, _plastic),
    "backdoor": (_protected, _closed, _plastic),
    "skewed": (_fair, _plastic),
    "noisy_labels": (_patient, _plastic),
    "ratchet": (_protected, _steady, _plastic),
    "drift_gradual": (_following,),
    "drift_sudden": (_following,),
}
