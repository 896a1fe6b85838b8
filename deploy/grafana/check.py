"""Ask a live Prometheus every question of the dashboards: ``python -m deploy.grafana.check http://127.0.0.1:9090``.

An expression that does not parse, has no answer, or only answers that are no numbers leaves a panel empty. After
traffic none may, save those that :data:`ALLOWED` gives a reason for.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

FOLDER = Path(__file__).parent / "dashboards"
ALLOWED = {
    "weir_device_memory_bytes": "only where the model lives on a GPU",
}
NEEDS_EVENTS = {
    "weir_rollbacks_total": "only within a minute of a rollback",
    "weir_alarms_total": "only within a minute of an alarm",
    "ALERTS": "only while an alert fires",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One expression of a dashboard, and where it stands."""

    board: str
    place: str
    expr: str

    def put(self, interval: str) -> str:
        """As Grafana would send it with every variable at *all*."""
        text = re.sub(r"\$__(rate_)?interval\b", interval, self.expr)
        return re.sub(r'=~"\$\w+"', '=~".*"', text)


def questions(board: Mapping[str, Any]) -> Iterator[Question]:
    """All expressions of a dashboard: of panels, annotations and variables."""
    title = board["title"]
    for panel in _panels(board["panels"]):
        for target in panel.get("targets") or ():
            yield Question(title, panel["title"], target["expr"])
    for mark in board.get("annotations", {}).get("list") or ():
        yield Question(title, f"marks: {mark['name']}", mark["expr"])
    for variable in board["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", str(variable["query"]))
        if found:
            yield Question(title, f"variable: {variable['name']}", f"count by ({found[2]}) ({found[1]})")


def boards() -> list[dict[str, Any]]:
    """The committed dashboards."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def fault(prometheus: httpx.Client, question: Question, interval: str) -> str | None:
    """What is wrong with the answer to a question, in words; None if it is a good one."""
    answer = prometheus.post("/api/v1/query", data={"query": question.put(interval)}).json()
    if answer["status"] != "success":
        return f"does not parse: {answer['error']}"
    result = answer["data"]["result"]
    pairs = [result] if answer["data"]["resultType"] == "scalar" else [series["value"] for series in result]
    values = [float(value) for _, value in pairs]
    if not values:
        return "no data"
    return "only NaN" if all(math.isnan(value) for value in values) else None


def faults(url: str, interval: str = "2m", *, allowed: Mapping[str, str] = ALLOWED) -> Iterator[str]:
    """What a dashboard would not show, one line each."""
    with httpx.Client(base_url=url, trust_env=False, timeout=10) as prometheus:
        for question in (question for board in boards() for question in questions(board)):
            wrong = fault(prometheus, question, interval)
            excused = wrong == "no data" and any(word in question.expr for word in allowed)
            if wrong and not excused:
                yield f"{question.board}: {question.place}: {wrong}: {question.expr}"


def main() -> None:
    """Print the faults; exits with 1 if there are any."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9090"
    found = list(faults(url, allowed={**ALLOWED, **NEEDS_EVENTS}))
    asked = sum(1 for board in boards() for _ in questions(board))
    print(*found, f"{asked} questions, {len(found)} without an answer", sep="\n")
    raise SystemExit(bool(found))


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels") or [])


if __name__ == "__main__":
    main()
