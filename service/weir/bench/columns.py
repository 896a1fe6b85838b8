"""The columns of a guard's table, and the few of them that say something in a scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weir.bench.bars import ROOM
from weir.bench.figures import upper_bound

Figures = Mapping[str, Any]
Show = Callable[[Figures], str]

NOTHING = "–"


def compact(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]], str]:
    """Titles and lines without the columns that tell no two lines apart, and those columns' content in words.

    The first column, the name, stays. A single line keeps all that it has.
    """
    kept, alike = [0], []
    for at in range(1, len(titles)):
        cells = {line[at] for line in lines}
        if cells <= {NOTHING}:
            continue
        if len(cells) > 1 or len(lines) == 1:
            kept.append(at)
        else:
            alike.append(f"{titles[at]} {lines[0][at]}")
    return [titles[at] for at in kept], [[line[at] for at in kept] for line in lines], "; ".join(alike)


def grid(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *(f"| {' | '.join(line)} |" for line in lines)]


def percent(value: float | None) -> str:
    """A share in per cent."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def plain(value: float | None) -> str:
    """A number as it was set."""
    return NOTHING if value is None else f"{value:.3g}"


def number(value: float | None) -> str:
    """A number with two places."""
    return NOTHING if value is None else f"{value:.2f}"


def rate(events: int, trials: int) -> str:
    """Events among trials, and the largest rate that these leave likely."""
    bound = upper_bound(events, trials)
    return NOTHING if bound is None else f"{events}/{trials} (≤ {100 * bound:.1f} %)"


def _share(name: str) -> Show:
    return lambda f: percent(f[name])


def _of_poison(name: str) -> Show:
    return lambda f: percent(f[name]) if f["poisoned_batches"] else NOTHING


def _honest(f: Figures) -> str:
    """And of the honest samples that are mislabelled or have drifted, where a scenario has such."""
    noisy = f["touched_noisy_ratio"]
    return percent(f["touched_clean_ratio"]) + ("" if noisy is None else f" (of the changed {100 * noisy:.0f})")


def _plasticity(f: Figures) -> str:
    return number(f["plasticity_ratio"] if f["unguarded_gain"] >= ROOM else None)


def _named(f: Figures) -> str:
    return NOTHING if f["named_after"] is None else f"{f['named_after']}"


def _worst(f: Figures) -> str:
    return percent(max(f["touched_per_class"])) if f["scenario"] == "skewed" else NOTHING


COLUMNS: dict[str, Show] = {
    "start": _share("accuracy_start"),
    "before trigger": _share("accuracy_before_trigger"),
    "after attack": _share("accuracy_after_trigger"),
    "its reference": _share("accuracy_reference"),
    "end": _share("accuracy_final"),
    "reference's end": _share("accuracy_reference_final"),
    "backdoor opens": _share("attack_success_rate"),
    "poison held": _of_poison("held_poison_ratio"),
    "corrected": _of_poison("corrected_poison_ratio"),
    "honest touched": _honest,
    "worst class": _worst,
    "AUROC": lambda f: number(f["auroc"]),
    "model-only": lambda f: number(f["auroc_model_only"]),
    "alarms on clean batches (95 % bound)": lambda f: rate(f["alarms"], f["batches"]),
    "steps called drift": lambda f: f"{f['drift_steps']}",
    "hostile named after": _named,
    "honest blamed (95 % bound)": lambda f: rate(f["blamed_honest"], f["honest_batches"]),
    "vetoes on clean": lambda f: f"{f['vetoes_on_clean']}",
    "plasticity": _plasticity,
}
