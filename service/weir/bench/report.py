"""Tables to Markdown: first an overview, then what sweeps show, then one table for each scenario and terms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from weir.bench.bars import CALLED_POISON, Bar
from weir.bench.columns import COLUMNS, NOTHING, compact, grid, percent, plain
from weir.bench.figures import BITES, BITES_SUCCESS
from weir.bench.guards import GUARDS
from weir.bench.sweeps import cells, sweeps
from weir.bench.tables import Row, Table, mean, tables

LEAST_SEEDS = 3
TERMS = (
    *("before", "attack", "attack_steps", "strikes", "after", "batch", "trigger", "burn_in", "burn_in_epochs"),
    *("burn_in_lr", "momentum", "test", "pool"),
)
PRINCIPAL = ("none", "dsc-calibrated", "gate-only", "weir")  # of the overview


def markdown(rows: Iterable[Row], *, title: str = "The guard, measured") -> str:
    """All tables of the rows, under the machine, the versions and what was set."""
    rows = list(rows)
    made = tables(rows)
    lines = [f"# {title}", "", *_preamble(rows)]
    lines += ["", "## Overview: bars met by the principal guards", "", *_overview(made)]
    lines += [*cells(made), *sweeps(made)]
    for table in made:
        lines += ["", *_section(table)]
    return "\n".join(lines) + "\n"


def _preamble(rows: Sequence[Row]) -> list[str]:
    devices = sorted({f"{row['device']}, {row['threads']} thread(s)" for row in rows})
    versions = sorted({", ".join(f"{name} {version}" for name, version in row["versions"].items()) for row in rows})
    return [
        f"Machine: {'; '.join(devices)}. Versions: {'; '.join(versions)}. {len(rows)} runs.",
        "",
        "Accuracies are on a test set that no one else sees, in per cent, means over seeds; *after attack* is the "
        "median of the five turns from the attack's last on, *end* of the last five. *Its reference* is the same guard "
        "on the same stream with the hostile samples left out. *Plasticity* is what that reference gained against what "
        "an unguarded model gained. *Touched* is held or corrected. *Model-only* is the AUROC of the evidence that "
        "needs no image.",
        "",
        "Bars are held against the mean over seeds, in each table by itself, never pooled; the honest share that may "
        "be touched on `clean` is the configured rate plus half a point. An attack that costs an unguarded model less "
        f"than {100 * BITES:.0f} points (and opens no backdoor in {100 * BITES_SUCCESS:.0f} % of cases) does "
        "not count, and its table says so. Bars on gains apply where an unguarded model gains at least five points. In "
        "drift, a batch is called poison when an alarm is raised and samples of it are held or corrected: "
        f"at most {CALLED_POISON:.0%} of the batches may be, and at least one step must be called drift. Guards in "
        "italics are dummies. The honest pool is dealt anew when it is used up, so later honest batches are not fresh.",
    ]


def _overview(made: Sequence[Table]) -> list[str]:
    """A line for each table: whether its attack bites, and how many bars each principal guard meets."""
    titles = ["scenario", "model", "lr", "BN", "epsilon", "fraction", "start", "attack bites", *PRINCIPAL]
    lines = [
        [
            table.scenario + _price(table),
            table.model,
            f"{table.row['lr']:g}",
            table.norm,
            plain(table.epsilon),
            plain(table.row["fraction"]),
            percent(mean(run["accuracy_start"] for run in next(iter(table.guards.values())))),
            _bite(table),
            *(_tally(table.bars(name)) if name in table.guards else "" for name in PRINCIPAL),
        ]
        for table in made
    ]
    return grid(titles, lines)


def _price(table: Table) -> str:
    """What an attacker who knows the guard pays for suspicion; nothing for the others."""
    return f", penalty {table.terms['penalty']:g}" if table.scenario == "adaptive" else ""


def _bite(table: Table) -> str:
    return NOTHING if not table.attacked else ("yes" if table.bites else "**no**")


def _tally(found: Sequence[Bar]) -> str:
    applied = [bar for bar in found if bar.met is not None]
    return f"{sum(bar.met is True for bar in applied)} of {len(applied)}"


def _section(table: Table) -> list[str]:
    lines = [_line(table, guard) for guard in table.guards]
    titles, short, alike = compact(["guard", *COLUMNS, "bars met"], lines)
    same = [f"Alike for all: {alike}.", ""] if alike else []
    title = f"## {table.scenario}{_price(table)}: {table.place}"
    head = [title, "", _setting(table), "", _verdict(table), "", *same]
    return [*head, *grid(titles, short), "", *_missed(table)]


def _setting(table: Table) -> str:
    row, terms = table.row, table.terms
    attack = "" if table.epsilon is None else f", epsilon {table.epsilon:.3g}"
    attack += "" if row["fraction"] is None else f", fraction {row['fraction']:g}"
    short = ", ".join(f"{name} {terms[name]}" for name in TERMS if name in terms)
    seeds = ", ".join(map(str, table.seeds))
    return f"Seeds {seeds}{attack}, probe set {row['probe_size']}, sample rate {terms['sample_rate']:g} ({short})."


def _verdict(table: Table) -> str:
    few = min(len(found) for found in table.guards.values())
    warning = f" **Only {few} seed(s): no claim.**" if few < LEAST_SEEDS else ""
    intent = _attack(table) if table.attacked else "No one means harm here."
    return f"{intent}{_drifted(table)}{warning}"


def _attack(table: Table) -> str:
    each = ", ".join(f"{100 * run['unguarded_loss']:.1f}" for run in next(iter(table.guards.values())))
    opened = "" if table.success is None else f"; the backdoor opens in {table.success:.0%} of cases"
    verdict = "the attack bites." if table.bites else "**the attack does not bite, so this table proves nothing.**"
    return f"An unguarded model loses {100 * table.loss:.1f} points ({each}){opened}: {verdict}"


def _drifted(table: Table) -> str:
    runs = next(iter(table.guards.values()))
    if runs[0]["unguarded_old_accuracy"] is None:
        return ""
    start, end = (percent(mean(run["unguarded_old_accuracy"][at] for run in runs)) for at in (0, 1))
    return f" Accuracies are in the new world; unguarded, it goes from {start} to {end} in the old one."


def _line(table: Table, guard: str) -> list[str]:
    figures = table.figures(guard)
    dummy = GUARDS[guard].dummy
    shown = [show(figures) for show in COLUMNS.values()]
    return [f"*{guard}*" if dummy else guard, *shown, _tally(table.bars(guard))]


def _missed(table: Table) -> list[str]:
    """What is missed, and by how much, and what too few runs leave open; guards of which the same is said together."""
    said: dict[str, list[str]] = defaultdict(list)
    for guard in table.guards:
        said[summary(table.bars(guard))].append(guard)
    return [f"- {', '.join(guards)}: {words}" for words, guards in said.items()]


def summary(found: Sequence[Bar]) -> str:
    """The bars of one row in words: met, which are missed and by how much, and which too few runs leave open."""
    missed = [bar.said for bar in found if bar.met is False]
    unproven = [bar.said for bar in found if bar.open]
    applied = sum(bar.met is not None for bar in found)
    said = f"all {applied} met" if not missed else f"**missed {len(missed)} of {applied}**: {'; '.join(missed)}"
    return "; open: ".join([said, *unproven])
