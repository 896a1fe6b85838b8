"""Who sends what, whose samples are held, and what speaks against whom."""

from __future__ import annotations

from deploy.grafana.boards.common import (
    COUNT,
    GREEN,
    HERE,
    ORANGE,
    RATIO,
    RED,
    SECONDS,
    STANDINGS,
    THEIRS,
    WIDTH,
    Panel,
    Query,
    Text,
    board,
    coloured,
    grid,
    lines,
    number,
    timeline,
    united,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard


def make() -> Dashboard:
    """The board for whoever asks who it was."""
    return board(
        "weir-producers",
        "Who sends what, whose samples are held, and what speaks against whom. Producers without a key share a name: "
        "other.",
        ("Now", [*_standings(), *_waiting()]),
        ("Each producer", [_table()]),
        ("Over time", [_held(), _evidence(), _rates(), _timeline()]),
        producers=True,
    )


def _standings() -> list[Panel]:
    meanings = {
        "good": ("Good", "Producers whose samples look like trusted ones.", ((None, GREEN),)),
        "watched": ("Watched", "Producers whose newest samples together look unlike.", ((None, GREEN), (1.0, ORANGE))),
        "suspended": ("Suspended", "Producers of which all is held: act.", ((None, GREEN), (1.0, RED))),
    }
    return [
        number(
            Text(title, meaning, "nobody yet"),
            Query(f'sum(weir_producers{{{HERE}, standing="{standing}"}})'),
            unit=COUNT,
            steps=steps,
        )
        for standing, (title, meaning, steps) in meanings.items()
    ]


def _waiting() -> list[Panel]:
    return [
        number(
            Text("Wait for review", "Held samples that nobody has decided on.", "no service"),
            Query(f"sum(weir_quarantine_samples{{{HERE}}})"),
            unit=COUNT,
            width=6,
        ),
        number(
            Text("Oldest of them", "How long the oldest held sample has waited; after 30 days it goes.", "no service"),
            Query(f"max(weir_quarantine_oldest_age_seconds{{{HERE}}})"),
            unit=SECONDS,
            width=6,
            steps=((None, GREEN), (86400.0, ORANGE), (3 * 86400.0, RED)),
        ),
    ]


def _table() -> Panel:
    said = Text(
        "Producers",
        "Samples on record, share of them held, evidence against them together over its threshold (1: an alarm), and "
        "standing. To look closer: weir quarantine list --producer NAME.",
        "Nobody has sent anything yet.",
    )
    names = ("seen_samples", "held_ratio", "evidence_ratio", "standing")
    titles = ("samples", "held", "evidence / threshold", "standing")
    shown = [
        Query(f"max by (producer) (weir_producer_{name}{{{THEIRS}}})", title)
        for name, title in zip(names, titles, strict=True)
    ]
    panel = grid(said, *shown, width=WIDTH, height=8)
    panel.override_by_name(*coloured("standing", STANDINGS))
    return panel.override_by_name(*united("held", RATIO)).override_by_name(*united("samples", COUNT))


def _held() -> Panel:
    said = Text(
        "Held share",
        "Share of all samples on record of each producer that was held.",
        "Nobody has sent anything yet.",
    )
    return lines(said, Query(f"weir_producer_held_ratio{{{THEIRS}}}", "{{producer}}"), unit=RATIO, top=1)


def _evidence() -> Panel:
    said = Text(
        "Evidence against a producer, over its threshold",
        "The larger of two tests: the newest samples together, and all of them in sequence. From 1 on the producer is "
        "watched or suspended.",
        "No evidence yet: nobody has sent enough, or the guard is not armed.",
    )
    return lines(
        said,
        Query(f"weir_producer_evidence_ratio{{{THEIRS}}}", "{{producer}}"),
        Query("vector(1)", "threshold"),
        unit=RATIO,
        bottom=None,
    )


def _rates() -> Panel:
    said = Text("Samples", "Samples a second that each producer sends.", "Nobody has sent anything yet.")
    expr = f"clamp_min(deriv(weir_producer_seen_samples{{{THEIRS}}}[$__rate_interval]), 0)"
    return lines(said, Query(expr, "{{producer}}"), unit="suffix:/s")


def _timeline() -> Panel:
    said = Text(
        "Standing",
        "Good; watched: some or all of its newest samples are held; suspended: all are.",
        "Nobody has sent anything yet.",
    )
    return timeline(said, Query(f"weir_producer_standing{{{THEIRS}}}", "{{producer}}"), states=STANDINGS, height=8)
