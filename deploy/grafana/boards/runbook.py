"""docs/runbook.md where it is needed: beside the curves."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.grafana.boards.common import board, words
from grafana_foundation_sdk.builders.dashboard import Dashboard

RUNBOOK = Path(__file__).parents[3] / "docs/runbook.md"


def make() -> Dashboard:
    """A panel for every alert, in the order of the page."""
    head, *parts = re.split(r"^## ", _unlinked(RUNBOOK.read_text()), flags=re.MULTILINE)
    intro = head.partition("\n")[2].strip()
    rows = [("How to use it", [words("", intro, width=24, height=8)])]
    for part in parts:
        title, *sections = re.split(r"^### ", part, flags=re.MULTILINE)
        named = (section.split("\n", 1) for section in sections)
        rows.append((title.strip(), [words(name, text.strip(), height=12) for name, text in named]))
    return board("weir-runbook", "What each alert means, how to look, and what to do.", *rows, events=False)


def _unlinked(markdown: str) -> str:
    """Links within the page lead nowhere from a panel."""
    return re.sub(r"\[([^]]+)\]\(#\w+\)", r"*\1*", markdown)
