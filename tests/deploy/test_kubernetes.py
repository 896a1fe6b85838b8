"""The manifests build, fit the schemas of Kubernetes, and keep the promises of their README; without a cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from weir import config

K8S = Path(__file__).parents[2] / "deploy/k8s"
WEIR = {"app.kubernetes.io/name": "weir"}

pytestmark = pytest.mark.needs("kubectl")


def built(name: str) -> str:
    environment = {**os.environ, "KUBECONFIG": "/dev/null"}
    command = ["kubectl", "kustomize", str(K8S / name)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def manifests(name: str = "base") -> dict[tuple[str, str], dict[str, Any]]:
    found = yaml.safe_load_all(built(name))
    return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in found}


@pytest.mark.needs("kubernetes-validate")
def test_the_base_fits_the_schemas_and_has_no_unknown_field(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(built("base"))
    command = ["kubernetes-validate", "--strict", "--no-warn", str(tmp_path / "base.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_container_is_locked_down() -> None:
    pod = manifests()["StatefulSet", "weir"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod["initContainers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}


def test_one_learner_is_asked_whether_it_lives_and_is_ready() -> None:
    learner = manifests()["StatefulSet", "weir"]["spec"]
    (container,) = learner["template"]["spec"]["containers"]
    assert learner["replicas"] == 1
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_selectors_choose_weir_and_nobody_elses_pods() -> None:
    base = manifests()
    assert base["Service", "weir"]["spec"]["selector"] == WEIR
    assert base["PodDisruptionBudget", "weir"]["spec"]["selector"]["matchLabels"] == WEIR
    policy = base["NetworkPolicy", "weir"]["spec"]
    assert policy["podSelector"]["matchLabels"] == WEIR
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == {"weir-access": "true"}
    assert policy["egress"][1]["to"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "redis"}


def test_no_secret_stands_in_the_manifests() -> None:
    for name in ("base", "monitoring"):
        assert not [kind for kind, _ in manifests(name) if kind == "Secret"]


def test_the_settings_are_weirs_own() -> None:
    given = manifests()["ConfigMap", "weir"]["data"]
    assert set(given) <= config.names().keys()


def test_the_pod_is_scraped_once_and_under_the_name_that_the_rules_know() -> None:
    found = manifests("monitoring")
    monitor = found["ServiceMonitor", "weir"]["spec"]
    (absent,) = monitor["selector"]["matchExpressions"]
    services = [manifest["metadata"]["labels"] for (kind, _), manifest in found.items() if kind == "Service"]
    (scraped,) = [labels for labels in services if absent["key"] not in labels]
    assert scraped[monitor["jobLabel"]] == "weir"
    assert monitor["endpoints"][0]["authorization"]["credentials"] == {"name": "weir-metrics", "key": "key"}
