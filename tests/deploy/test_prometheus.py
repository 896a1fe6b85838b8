"""The rules mean what they say: promtool's own tests, and what every alert owes to whom it wakes."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry
from tests.test_metrics import LEVELS, REPORT

from weir.cli.app import app
from weir.metrics import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
ALERTMANAGER = ROOT / "deploy/alertmanager/alertmanager.yml"
RUNBOOK = (ROOT / "docs/runbook.md").read_text()


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules" / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}


def run(*command: str | Path) -> str:
    """What a checker prints; it must be content."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs("promtool")
def test_promtool_reads_the_configuration() -> None:
    run("promtool", "check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *(PROMETHEUS / "rules").glob("*.yml"))


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("file", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda file: file.stem)
def test_every_alert_fires_when_it_should_and_only_then(file: Path) -> None:
    run("promtool", "test", "rules", file)


def test_every_alert_has_such_a_test() -> None:
    text = "".join(file.read_text() for file in (PROMETHEUS / "tests").glob("*.yml"))
    for alert in ALERTS:
        fires = rf'alertname="{alert}", alertstate="firing"}}\)\s+eval_time: \w+\s+exp_samples:\s+- '
        assert re.search(fires + r"labels: '{instance=\"bad\"}'", text), f"{alert}: no test"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_what_to_do_and_where_to_read_on(name: str) -> None:
    labels, annotations = ALERTS[name]["labels"], ALERTS[name]["annotations"]
    assert labels["severity"] in {"critical", "warning", "info"}
    assert "{{ $labels.instance }}" in annotations["summary"]
    assert len(annotations["description"]) > 40
    assert annotations["runbook_url"] == f"{{{{ $externalLabels.runbook }}}}#{name.lower()}"
    assert "poisoned" not in str(annotations)


def test_the_runbook_has_a_section_for_every_alert_and_for_nothing_else() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(ALERTS)
    for name, text in sections.items():
        assert all(part in text for part in ("**Means.**", "**Look.**", "**Do.**")), name


def test_the_runbook_links_to_sections_that_exist() -> None:
    assert set(re.findall(r"\]\(#(\w+)\)", RUNBOOK)) <= {name.lower() for name in ALERTS}


def test_the_runbook_gives_commands_that_exist() -> None:
    """Down to their options; what follows a pipe counts too."""
    blocks = re.findall(r"^```sh\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
    parts = re.split(r"\|\s*(?:xargs )?|&&|>|\n", "".join(blocks))
    commands = [part for part in parts if part.strip().startswith("weir ")]
    tree = typer.main.get_command(app)
    assert len(commands) > 20
    for command in commands:
        at: Any = tree
        for word in shlex.split(command)[1:]:
            if word.startswith("--"):
                assert word in {option for parameter in at.params for option in parameter.opts}, command
            elif hasattr(at, "commands") and word in at.commands:
                at = at.commands[word]
        assert at is not tree, command


def test_rules_ask_for_metrics_that_weir_has() -> None:
    """Recorded series count too; a rule over a misspelt name would be silent for good."""
    metrics = Metrics(CollectorRegistry(), sample_rate=0.01)
    metrics.observe(REPORT)
    metrics.watch(lambda: LEVELS)
    exposed = set(re.findall(r"^(weir_\w+)", metrics.render()[0].decode(), re.MULTILINE))
    recorded = {rule["record"] for rule in rules("recording.yml")}
    for rule in [*ALERTS.values(), *rules("recording.yml")]:
        unknown = names(rule) - exposed - recorded
        assert not unknown, f"{rule.get('alert') or rule.get('record')}: {unknown}"


def names(rule: Mapping[str, Any]) -> set[str]:
    return set(re.findall(r"\bweir[_:][\w:]+", rule["expr"]))


@pytest.mark.needs("amtool")
def test_amtool_reads_the_alertmanager_configuration(tmp_path: Path) -> None:
    """An amtool before 0.26 knows no file for the address: it gets an address in its place."""
    text = ALERTMANAGER.read_text()
    old = "version 0.25" in run("amtool", "--version")
    (tmp_path / "alertmanager.yml").write_text(
        re.sub(r"url_file: \S+", "url: http://localhost/", text) if old else text
    )
    run("amtool", "check-config", tmp_path / "alertmanager.yml")


def test_inhibition_names_alerts_that_exist() -> None:
    mentioned = set(re.findall(r"Weir[A-Z]\w+", ALERTMANAGER.read_text()))
    assert mentioned <= set(ALERTS)
    assert "WeirTargetDown" in mentioned


def test_no_secret_stands_in_the_configuration() -> None:
    (receiver,) = yaml.safe_load(ALERTMANAGER.read_text())["receivers"]
    assert receiver["webhook_configs"][0]["url_file"].startswith("/run/weir-secrets/")
    (weir, *_) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    assert weir["authorization"] == {"credentials_file": "/run/weir-secrets/metrics-key"}
