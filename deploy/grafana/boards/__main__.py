"""Write the dashboards as Grafana reads them: ``python -m deploy.grafana.boards``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from deploy.grafana.boards import guard, operations, overview, producers, runbook
from grafana_foundation_sdk.cog.encoder import JSONEncoder

FOLDER = Path(__file__).parents[1] / "dashboards"


def rendered() -> Iterator[tuple[Path, str]]:
    """Every dashboard's file and what is to stand in it."""
    for module in (overview, guard, producers, operations, runbook):
        made = module.make().build()
        for number, panel in enumerate(made.panels or (), start=1):
            panel.id_val = number  # a link to a panel must not depend on who loaded the board first
        yield FOLDER / f"{made.uid}.json", json.dumps(made, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write them all."""
    for path, text in rendered():
        path.write_text(text)
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()
