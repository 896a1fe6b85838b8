"""Rows to tables: one per scenario, the means over seeds of every guard, and the bars it meets or misses."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weir.bench.bars import ROOM, Bar, bars
from weir.bench.figures import BITES, BITES_SUCCESS, upper_bound
from weir.bench.guards import GUARDS
from weir.bench.scenario import SCENARIOS

Row = Mapping[str, Any]

LEAST_SEEDS = 3
HEAD = (
    "| guard | start | before trigger | after attack | its reference | end | its reference | poison held | corrected "
    "| honest touched | AUROC | alarms on clean batches (95 % bound) | hostile named | honest blamed (95 % bound) "
    "| vetoes on clean | plasticity | bars |",
    "|---" * 17 + "|",
)
TERMS = (
    *("before", "attack", "strikes", "after", "batch", "trigger", "burn_in", "burn_in_epochs", "burn_in_lr"),
    *("momentum", "test"),
)
PRINCIPAL = ("none", "dsc-calibrated", "gate-only", "weir")  # of the overview


def markdown(rows: Iterable[Row], *, title: str = "The guard, measured") -> str:
    """All tables of the rows, under the machine, the versions and what was set."""
    groups = grouped(rows)
    lines = [
        f"# {title}",
        "",
        *_preamble([row for guards in groups.values() for runs in guards.values() for row in runs]),
    ]
    lines += ["", "## Overview: bars met by the principal guards", "", *_overview(groups.values())]
    for guards in groups.values():
        lines += ["", *_table(guards)]
    return "\n".join(lines) + "\n"


def averaged(runs: Sequence[Row]) -> dict[str, Any]:
    """One guard's figures: means over seeds of what is a number in every run, else None; counts are sums."""
    figures: dict[str, Any] = {}
    for name, value in runs[0].items():
        values = [run[name] for run in runs]
        if name in ("batches", "alarms", "blamed_honest", "honest_batches", "vetoes_on_clean", "poisoned_batches"):
            figures[name] = sum(values)
        elif name == "touched_per_class":
            figures[name] = [_known_mean(column) for column in zip(*values, strict=True)]
        elif isinstance(value, int | float) or value is None:
            figures[name] = _mean(values)
    named = [run["named_after"] for run in runs]
    figures["named_after"] = None if None in named else max(named)
    for name in ("held_poison_ratio", "corrected_poison_ratio"):
        figures[name] = figures[name] or 0.0
    figures["alarm_rate"] = figures["alarms"] / figures["batches"] if figures["batches"] else None
    figures["sample_rate"] = runs[0]["terms"]["sample_rate"]
    return figures


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None when a value is missing."""
    known = list(values)
    return statistics.fmean(v for v in known if v is not None) if known and None not in known else None


def _known_mean(values: Iterable[float | None]) -> float:
    """The mean of what is known: a rare class may be absent in one seed's stream."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else 0.0


def grouped(rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """Rows by cell, cells in the order of the scenarios, then by guard in the order of the guards."""
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    order, ranks = list(SCENARIOS), list(GUARDS)
    ranked = sorted(rows, key=lambda row: (order.index(row["scenario"]), ranks.index(row["guard"]), row["seed"]))
    for row in ranked:
        groups[json.dumps([row["scenario"], row["terms"]], sort_keys=True)][row["guard"]].append(row)
    return groups


def _preamble(rows: Sequence[Row]) -> list[str]:
    devices = sorted({f"{row['device']}, {row['threads']} thread(s)" for row in rows})
    versions = sorted({", ".join(f"{name} {version}" for name, version in row["versions"].items()) for row in rows})
    return [
        f"Machine: {'; '.join(devices)}. Versions: {'; '.join(versions)}. {len(rows)} runs.",
        "",
        "Accuracies are on a test set that no one else sees, in per cent, means over seeds; *after attack* is the "
        "median of the five turns from the attack's last on, *end* of the last five. *Its reference* is the same guard "
        "on the same stream with the hostile samples left out. *Plasticity* is what that reference gained against what "
        "an unguarded model gained. *Touched* is held or corrected. Bars are held against the mean over seeds; the "
        "honest share that may be touched on `clean` is the configured rate plus half a point. A table of an attack "
        f"that costs an unguarded model less than {100 * BITES:.0f} points (and opens no backdoor in "
        f"{100 * BITES_SUCCESS:.0f} % of cases) does not count, and says so. Bars on gains apply where an unguarded "
        "model gains at least five points. Guards in italics are dummies. The honest pool is dealt anew when it is "
        "used up, so later honest batches are not fresh; with 400 test samples one point is four of them.",
    ]


def _overview(groups: Iterable[Mapping[str, Sequence[Row]]]) -> list[str]:
    """A line for each table: whether its attack bites, and how many bars each principal guard meets."""
    lines = [f"| scenario | start | lr | attack bites | {' | '.join(PRINCIPAL)} |", "|---" * (4 + len(PRINCIPAL)) + "|"]
    for guards in groups:
        runs = next(iter(guards.values()))
        start = _percent(averaged(runs)["accuracy_start"])
        bite = "–" if runs[0]["attack_bites"] is None else ("yes" if _counts(runs) else "**no**")
        met = [_tally(guards[name], _published(guards)) if name in guards else "" for name in PRINCIPAL]
        lines.append(f"| {runs[0]['scenario']} | {start} | {runs[0]['lr']:g} | {bite} | {' | '.join(met)} |")
    return lines


def _tally(runs: Sequence[Row], published: float | None) -> str:
    found = bars(runs[0]["scenario"], averaged(runs) | {"published_after_trigger": published})
    applied = [bar for bar in found if bar.met is not None]
    return f"{sum(bar.met is True for bar in applied)} of {len(applied)}"


def _published(guards: Mapping[str, Sequence[Row]]) -> float | None:
    """What the published rule, calibrated, keeps after the attack."""
    return averaged(guards["dsc-calibrated"])["accuracy_after_trigger"] if "dsc-calibrated" in guards else None


def _counts(runs: Sequence[Row]) -> bool:
    """Whether the attack bites in the mean over seeds."""
    loss = _mean(run["unguarded_loss"] for run in runs) or 0.0
    return loss >= BITES or (_mean(run["unguarded_success_rate"] for run in runs) or 0.0) >= BITES_SUCCESS


def _table(guards: Mapping[str, Sequence[Row]]) -> list[str]:
    first = next(iter(guards.values()))[0]
    rows = [_line(first["scenario"], runs, _published(guards)) for runs in guards.values()]
    verdict = _verdict(guards, first["attack_bites"] is not None)
    return [f"## {first['scenario']}", "", *_setting(guards, first), "", verdict, "", *HEAD, *rows]


def _setting(guards: Mapping[str, Sequence[Row]], row: Row) -> list[str]:
    terms = row["terms"]
    options = " ".join(f"{name} {value}" for name, value in terms["options"].items())
    seeds = sorted({run["seed"] for runs in guards.values() for run in runs})
    attack = "" if row["epsilon"] is None else f", epsilon {row['epsilon']:g}, fraction {row['fraction']:g}"
    short = ", ".join(f"{name} {terms[name]}" for name in TERMS)
    return [
        f"{row['dataset']}, {row['model']} {options}, lr {row['lr']:g}, BN {_norm(row)}{attack}, probe set "
        f"{row['probe_size']}, sample rate {terms['sample_rate']:g}, seeds {', '.join(map(str, seeds))} ({short})."
    ]


def _norm(row: Row) -> str:
    return "none in the model" if row["model"] in ("mlp", "cnn") else str(row["norm_mode"])


def _verdict(guards: Mapping[str, Sequence[Row]], attacked: bool) -> str:
    runs = next(iter(guards.values()))
    few = min(len(found) for found in guards.values())
    warning = f" **Only {few} seed(s): no claim.**" if few < LEAST_SEEDS else ""
    if not attacked:
        old = runs[0]["unguarded_old_accuracy"]
        moved = "" if old is None else f" {_drifted(runs)}"
        return f"No one means harm here.{moved}{warning}"
    loss = _mean([run["unguarded_loss"] for run in runs]) or 0.0
    each = ", ".join(f"{100 * run['unguarded_loss']:.1f}" for run in runs)
    success = _mean([run["unguarded_success_rate"] for run in runs])
    opened = "" if success is None else f"; the backdoor opens in {success:.0%} of cases"
    what = f"An unguarded model loses {100 * loss:.1f} points ({each}){opened}: "
    counts = loss >= BITES or (success or 0.0) >= BITES_SUCCESS
    return (
        what
        + ("the attack bites." if counts else "**the attack does not bite, so this table proves nothing.**")
        + warning
    )


def _drifted(runs: Sequence[Row]) -> str:
    start = _mean([run["unguarded_old_accuracy"][0] for run in runs]) or 0.0
    end = _mean([run["unguarded_old_accuracy"][1] for run in runs]) or 0.0
    return (
        f"Accuracies are in the new world; unguarded, it goes from {100 * start:.1f} to {100 * end:.1f} in the old one."
    )


def _line(scenario: str, runs: Sequence[Row], published: float | None) -> str:
    f = averaged(runs) | {"published_after_trigger": published}
    name = runs[0]["guard"]
    cells = [
        f"*{name}*" if GUARDS[name].dummy else name,
        *(
            _percent(f[part])
            for part in (
                "accuracy_start",
                "accuracy_before_trigger",
                "accuracy_after_trigger",
                "accuracy_reference",
                "accuracy_final",
                "accuracy_reference_final",
            )
        ),
        *(_percent(f[part]) for part in ("held_poison_ratio", "corrected_poison_ratio")),
        _percent(f["touched_clean_ratio"]) + _changed(f["touched_noisy_ratio"]),
        _number(f["auroc"]),
        _rate(f["alarms"], f["batches"]),
        "–" if f["named_after"] is None else f"{f['named_after']}",
        _rate(f["blamed_honest"], f["honest_batches"]),
        f"{f['vetoes_on_clean']}",
        _number(f["plasticity_ratio"] if f["unguarded_gain"] >= ROOM else None),
        summary(bars(scenario, f)),
    ]
    return f"| {' | '.join(cells)} |"


def summary(found: Sequence[Bar]) -> str:
    """The bars of one row in words: met, which are missed and by what, and which too few runs leave open."""
    missed = [f"{bar.name}: {bar.measured}" for bar in found if bar.met is False]
    unproven = [f"{bar.name}: {bar.measured}" for bar in found if bar.open]
    applied = sum(bar.met is not None for bar in found)
    said = f"all {applied} met" if not missed else f"**missed {len(missed)} of {applied}**: {'; '.join(missed)}"
    return "; open: ".join([said, *unproven])


def _changed(noisy: float | None) -> str:
    """Of the honest samples that are mislabelled or have drifted, where a scenario has such."""
    return "" if noisy is None else f" (of the changed {100 * noisy:.0f})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _rate(events: int, trials: int) -> str:
    bound = upper_bound(events, trials)
    return "–" if bound is None else f"{events}/{trials} (≤ {100 * bound:.1f} %)"
