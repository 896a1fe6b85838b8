"""What a fresh interpreter loads: the core runs where torch is all there is, and the command starts at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

WEB_AND_DATABASE = {
    "fastapi",
    "httpx",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "redis",
    "safetensors",
    "sqlite3",
    "starlette",
    "typer",
    "uvicorn",
}
OF_THE_FLOOR = {"weir", "weir.errors", "weir.types"}


def loaded_by(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["weir.core", "weir.core.engine"])
def test_the_core_loads_no_web_or_database_package_and_nothing_of_weir_above_it(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module in loaded
    assert not loaded & WEB_AND_DATABASE
    above = {name for name in loaded if name.split(".")[0] == "weir" and not name.startswith("weir.core")}
    assert above <= OF_THE_FLOOR


def test_the_settings_load_no_web_framework() -> None:
    assert not loaded_by("import weir.config") & {"fastapi", "starlette", "uvicorn", "httpx", "sqlite3", "redis"}


def test_importing_the_metrics_registers_nothing() -> None:
    registered = "prometheus_client.REGISTRY._names_to_collectors"
    code = f"import prometheus_client, weir.metrics; assert not [n for n in {registered} if n.startswith('weir')]"
    assert "weir.metrics" in loaded_by(code)


def test_the_command_line_answers_without_torch_and_web_packages() -> None:
    code = "import sys, weir.cli; sys.argv = ['weir', '--help']\ntry: weir.cli.main()\nexcept SystemExit: pass"
    loaded = loaded_by(code)
    assert "weir.cli" in loaded
    assert not loaded & (WEB_AND_DATABASE - {"typer"} | {"torch", "numpy"})
