"""Tables side by side: the cells of batch norm, epsilon and share, and terms of which a single one was varied."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weir.bench.columns import NOTHING, compact, grid, number, percent, plain
from weir.bench.tables import ALL_EVIDENCE, PUBLISHED, Table

CELL = ("norm_mode", "epsilon", "fraction")
COMPARED = ("none", PUBLISHED, ALL_EVIDENCE)
Figures = Mapping[str, Any]


def cells(made: Sequence[Table]) -> list[str]:
    """Weir in every cell of an attack that has more than one."""
    lines = []
    for group in _grouped([table for table in made if table.attacked], CELL):
        titles = ["BN", "epsilon", "fraction", *_TITLES]
        body = [[table.norm, plain(table.epsilon), plain(table.row["fraction"]), *_figures(table)] for table in group]
        lines += _part(f"{group[0].scenario} by BN, epsilon and fraction", group[0], titles, body)
    return lines


def sweeps(made: Sequence[Table]) -> list[str]:
    """What changes with a number of the terms that was varied alone, as an attacker's penalty on the evidence."""
    lines = []
    for name in _numbers(made):
        for group in _grouped(made, (name,)):
            ranked = sorted(group, key=lambda table: float(table.terms[name]))
            body = [[f"{table.terms[name]:g}", *_figures(table)] for table in ranked]
            lines += _part(f"{group[0].scenario} over {name}", group[0], [name, *_TITLES], body)
    return lines


_GUARDED: dict[str, Callable[[Figures], str]] = {
    "after": lambda f: percent(f["accuracy_after_trigger"]),
    "its reference": lambda f: percent(f["accuracy_reference"]),
    "poison held": lambda f: percent(f["held_poison_ratio"]) if f["poisoned_batches"] else NOTHING,
    "alarms on poison": lambda f: f"{f['alarms_on_poison']}/{f['poisoned_batches']}",
    "honest touched": lambda f: percent(f["touched_clean_ratio"]),
    "AUROC": lambda f: number(f["auroc"]),
}
_TITLES = ("unguarded loses", *(f"{guard}, after" for guard in COMPARED[:2]), *(f"weir, {name}" for name in _GUARDED))


def _figures(table: Table) -> list[str]:
    unguarded = percent(table.loss) + ("" if table.bites else " (does not bite)") if table.attacked else NOTHING
    others = [
        percent(table.figures(guard)["accuracy_after_trigger"]) if guard in table.guards else NOTHING
        for guard in COMPARED[:2]
    ]
    if ALL_EVIDENCE not in table.guards:
        return [unguarded, *others, *[NOTHING] * len(_GUARDED)]
    figures = table.figures(ALL_EVIDENCE)
    return [unguarded, *others, *(show(figures) for show in _GUARDED.values())]


def _part(title: str, table: Table, titles: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    kept, lines, alike = compact(titles, body)
    setting = f"{table.model}, lr {table.row['lr']:g}" + (f"; alike: {alike}" if alike else "")
    return ["", f"## {title}", "", f"{setting}.", "", *grid(kept, lines)]


def _grouped(made: Sequence[Table], varied: Sequence[str]) -> list[list[Table]]:
    """Tables of one scenario that differ in nothing but the terms that are varied, where there are several."""
    groups: dict[str, list[Table]] = defaultdict(list)
    for table in made:
        rest = {name: value for name, value in table.terms.items() if name not in varied}
        groups[json.dumps([table.scenario, rest], sort_keys=True)].append(table)
    return [group for group in groups.values() if len(group) > 1]


def _numbers(made: Sequence[Table]) -> list[str]:
    """The terms that are numbers in every table, but those of a cell."""
    names = made[0].terms if made else {}
    return [name for name in names if name not in CELL and all(_is_number(t.terms.get(name)) for t in made)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
