"""The dashboards are what their code says, say what they mean, and have answers to all of their questions."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from deploy.grafana import check, stage
from deploy.grafana.boards.__main__ import FOLDER, rendered
from prometheus_client import CollectorRegistry
from tests.deploy.test_prometheus import ALERTS
from tests.test_metrics import LEVELS, REPORT, producer, reporting

from weir import config, folder
from weir.api.auth import issue
from weir.client import Client
from weir.demo.services import Service
from weir.demo.story import STANDARD
from weir.metrics import Metrics
from weir.stores.base import Role
from weir.types import GateReport, GuardMode

Live: TypeAlias = tuple[stage.Prometheus, Service]
BOARDS = {board["uid"]: board for board in check.boards()}
PANELS = [(uid, panel) for uid, board in BOARDS.items() for panel in board["panels"] if panel["type"] != "row"]
SHOWN = [(uid, panel) for uid, panel in PANELS if panel["type"] != "text"]
PROVISIONING = FOLDER.parent / "provisioning"


def named(parameter: object) -> str:
    return str(parameter["title"]) if isinstance(parameter, dict) else str(parameter)


def test_the_files_are_what_the_code_makes() -> None:
    made = dict(rendered())
    assert {path.name for path in made} == {path.name for path in FOLDER.glob("*.json")}
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name}: python -m deploy.grafana.boards writes it anew"


@pytest.mark.parametrize(("uid", "panel"), SHOWN, ids=named)
def test_a_panel_has_a_unit_a_meaning_and_words_for_when_it_is_empty(uid: str, panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["noValue"]
    assert len(panel["description"]) > 20
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert "poisoned" not in json.dumps(panel)


@pytest.mark.parametrize("uid", BOARDS)
def test_no_panel_lies_on_another_and_none_hangs_over(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[uid]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


@pytest.mark.parametrize("uid", BOARDS)
def test_every_board_leads_to_every_other(uid: str) -> None:
    links = {link["url"] for link in BOARDS[uid]["links"]}
    assert links == {f"/d/{other}" for other in BOARDS if other != uid}
    leads = set(re.findall(r'"/d/([\w-]+)"', json.dumps(BOARDS[uid])))
    assert leads <= set(BOARDS)


def test_the_runbook_board_has_a_panel_for_every_alert() -> None:
    assert {panel["title"] for panel in BOARDS["weir-runbook"]["panels"]} >= set(ALERTS)


def test_grafana_finds_what_is_provisioned() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["uid"] == "weir-prometheus"
    scraped = yaml.safe_load((stage.CONFIGURATION / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/weir.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


def test_every_metric_is_shown_somewhere() -> None:
    """A metric that nobody looks at is one to take away."""
    metrics = Metrics(CollectorRegistry(), sample_rate=0.01)
    metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.1, 4.0, 2.0, vetoed=False)))
    metrics.watch(lambda: dataclasses.replace(LEVELS, device_memory_bytes=1))
    exposed = {family.name for family in metrics.registry.collect() if family.name.startswith("weir_")}
    asked = " ".join(question.expr for board in BOARDS.values() for question in check.questions(board))
    unseen = {name for name in exposed if not re.search(rf"\b{name}(_total|_bucket|_sum|_count)?\b", asked)}
    assert not unseen


def test_a_panel_asks_for_metrics_that_weir_has() -> None:
    metrics = Metrics(CollectorRegistry(), sample_rate=0.01)
    metrics.observe(dataclasses.replace(REPORT, gate=GateReport(0.1, 4.0, 2.0, vetoed=False)))
    reports = (producer("a", 9, 1, score=1.0),)
    levels = dataclasses.replace(reporting(*reports, names=("a",)), device_memory_bytes=1)
    metrics.watch(lambda: levels)
    exposed = set(re.findall(r"^(weir_\w+)", metrics.render()[0].decode(), re.MULTILINE))
    questions = [question for board in BOARDS.values() for question in check.questions(board)]
    asked = {name for question in questions for name in re.findall(r"\bweir_\w+", question.expr)}
    assert asked <= exposed


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A guarded service that has been attacked, rolled back, and watched by Prometheus all the time."""
    base = tmp_path_factory.mktemp("live")
    with (
        stage.serving({"guarded": GuardMode.WEIR}, base, plan=STANDARD, seed=0) as services,
        stage.scraping(services, base) as prometheus,
    ):
        (service,) = services
        prometheus.wait("up == 1")
        for _ in stage.play(services, plan=STANDARD, seed=0, after=5):
            pass
        with Client(service.url, admin_key(base / "guarded")) as admin:
            admin.rollback(admin.checkpoints()[0].id)
        honest = stage.play(services, plan=STANDARD, seed=1, pace=1.5 * stage.SCRAPE_SECONDS)
        for _ in islice(honest, 3):
            pass
        prometheus.wait("increase(weir_rollbacks_total[1m]) > 0")
        yield prometheus, service


def admin_key(data: Path) -> str:
    with folder.stores(config.load(data=data)) as stores:
        record, key = issue("ops", [Role.ADMIN], time.time)
        stores.keys.add(record)
    return key


@pytest.mark.needs("prometheus")
def test_every_question_has_an_answer_after_an_attack(live: Live) -> None:
    prometheus, _ = live
    assert list(check.faults(prometheus.url)) == []


@pytest.mark.needs("prometheus")
def test_an_attack_raises_the_alerts_that_it_should(live: Live) -> None:
    prometheus, _ = live
    firing = prometheus.wait('ALERTS{alertname="WeirBatchHeld", alertstate="firing"}')
    assert {series["metric"]["severity"] for series in firing} == {"warning"}
    assert prometheus.wait('ALERTS{alertname="WeirRolledBack", alertstate="firing"}')
    groups = prometheus.get("rules")["groups"]
    sick = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"]
    assert sick == []


@pytest.mark.needs("prometheus")
def test_prometheus_shows_what_the_service_says(live: Live) -> None:
    prometheus, service = live
    told = service.gauges()
    for name in ("weir_model_step", "weir_quarantine_samples", "weir_steps_total"):
        assert prometheus.wait(f"{name} == {told[name]}")


@pytest.mark.needs("prometheus")
def test_the_check_tells_what_has_no_answer(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    prometheus, _ = live
    wrong = {"title": "t", "type": "stat", "targets": [{"expr": "sum("}, {"expr": "weir_nought"}, {"expr": "0/0"}]}
    monkeypatch.setattr(check, "boards", lambda: [{"title": "b", "panels": [wrong], "templating": {"list": []}}])
    found = list(check.faults(prometheus.url))
    assert [line.split(": ")[2] for line in found] == ["does not parse", "no data", "only NaN"]
