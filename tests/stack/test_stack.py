"""The stack as `docker compose up` starts it: watched, attacked, killed, cut off, and searched for its secrets.

Run it with `make stack-test`. The tests follow one another: one stack, from its first start to its end.
"""

from __future__ import annotations

import io
import json
import re
import ssl
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.stack.conftest import readable
from tests.stack.engine import PROJECT, Stack, docker, say, until
from tests.stack.sender import Sender, acknowledge, assert_all_learned

from weir.client import Client
from weir.datasets import Dataset

ONCE = {"secrets", "init"}
POISON_ALERTS = {"WeirPoisonSuspected", "WeirBatchHeld"}
ALERT_SECONDS = 240
MODEL = b"""from torch import nn


def build(inputs, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, inputs.classes))
"""


def test_every_health_check_is_green(stack: Stack, services: set[str]) -> None:
    found = {item["Service"]: item for item in stack.services()}
    assert found.keys() == services
    assert {name: item["Health"] for name, item in found.items() if name not in ONCE} == dict.fromkeys(
        services - ONCE, "healthy"
    )
    assert {name: (found[name]["State"], found[name]["ExitCode"]) for name in ONCE} == dict.fromkeys(
        ONCE, ("exited", 0)
    )


def test_the_first_start_says_what_it_is_and_how_to_go_on(stack: Stack) -> None:
    told = stack.logs("init")
    assert "weir keys add ops --role admin" in told
    assert "grafana-password" in told
    assert "THE MODEL IS AN EXAMPLE" in told
    assert "EXAMPLE" in stack.logs("weir")
    assert "digits" in stack.execute("weir", "cat", "/data/EXAMPLE")


def test_nobody_is_served_without_a_key(stack: Stack) -> None:
    for path in ("/metrics", "/v1/model", "/v1/quarantine"):
        assert httpx.get(f"{stack.url}{path}", trust_env=False).status_code == 401, path
    ready = httpx.get(f"{stack.url}/health/ready", trust_env=False).json()
    assert (ready["ready"], ready["armed"]) == (True, True)


def test_prometheus_scrapes_weir(stack: Stack) -> None:
    def up() -> bool | None:
        return True if [item["value"][1] for item in stack.query('up{job="weir"}')] == ["1"] else None

    assert until(up, "Prometheus scrapes Weir", 60)


def test_clean_traffic_is_learned_and_hostile_traffic_is_held(
    stack: Stack, keys: dict[str, Path], rest: Dataset, folder: Path
) -> None:
    data = str(folder / "rest.npz")
    sent = stack.weir("stream", data, "--limit", "400", "--batch", "50", "--key-file", str(keys["steady"]))
    assert sent["accept"] > 360, sent
    assert sent["pending"] == 0, sent
    for attack in ("accumulative", "label_flip"):
        tally = stack.weir(
            *("redteam", attack, "--to", stack.url, "--data", data),
            *("--key-file", str(keys["mallory"]), "--spy-key-file", str(keys["auditor"])),
        )
        say(json.dumps(tally))
        assert tally["hostile_held"] > 0.5 * tally["hostile"], tally


def test_sigkill_of_weir_loses_no_acknowledged_batch(
    stack: Stack, keys: dict[str, Path], rest: Dataset, auditor: Client
) -> None:
    with sender(stack, keys, rest) as steady:
        acknowledge(steady, 10)
        stack.kill("weir")
        acknowledge(steady, 10)
    assert_all_learned(auditor, steady)


def test_sigkill_of_redis_loses_no_acknowledged_batch(
    stack: Stack, keys: dict[str, Path], rest: Dataset, auditor: Client
) -> None:
    with sender(stack, keys, rest) as steady:
        acknowledge(steady, 10)
        stack.kill("redis")
        acknowledge(steady, 10)
    assert_all_learned(auditor, steady)


def test_a_network_that_is_cut_and_heals_loses_nothing(
    stack: Stack, keys: dict[str, Path], rest: Dataset, auditor: Client
) -> None:
    network, redis = f"{PROJECT}_store", stack.container("redis")
    with sender(stack, keys, rest) as steady:
        acknowledge(steady, 10)
        docker("network", "disconnect", network, redis)
        until(lambda: httpx_status(stack) == 503 or None, "Weir says that it is not ready", 60)
        docker("network", "connect", "--alias", "redis", network, redis)
        until(lambda: httpx_status(stack) == 200 or None, "Weir is ready again", 60)
        acknowledge(steady, 10)
    assert_all_learned(auditor, steady)


def test_a_poison_alert_reaches_the_webhook(stack: Stack) -> None:
    arrived = until(lambda: POISON_ALERTS & stack.alerts() or None, "a poison alert at the webhook", ALERT_SECONDS)
    say(f"alerts at the webhook: {sorted(stack.alerts())}")
    assert arrived


def test_every_container_is_confined(stack: Stack, services: set[str]) -> None:
    for service in services:
        found = stack.inspect(service)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["Memory"] > 0, service
        assert host["PidsLimit"] > 0, service
        assert not host["Privileged"], service


def test_weir_is_nobody_on_a_file_system_that_cannot_be_written(stack: Stack) -> None:
    assert stack.execute("weir", "id", "-u").strip() == "10001"
    assert stack.execute("redis", "id", "-u").strip() == "999"
    assert stack.execute("prometheus", "id", "-u").strip() == "65534"
    for path in ("/x", "/opt/weir/x", "/etc/x", "/run/weir-secrets/x"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            stack.execute("weir", "touch", path)
    for tool in ("gcc", "make", "git"):
        with pytest.raises(AssertionError):
            stack.execute("weir", "which", tool)


def test_only_doors_are_published_and_on_loopback(stack: Stack, services: set[str]) -> None:
    published = {}
    for service in services - ONCE:
        bindings = stack.inspect(service)["HostConfig"]["PortBindings"] or {}
        if bindings:
            published[service] = {binding["HostIp"] for ports in bindings.values() for binding in ports}
    assert published == {service: {"127.0.0.1"} for service in services & {"weir", "grafana", "tls"}}


def test_tls_ends_in_front_of_weir(stack: Stack, keys: dict[str, Path], folder: Path) -> None:
    certificate = folder / "tls.crt"
    certificate.write_text(stack.secret("tls.crt"))
    with httpx.Client(
        base_url=f"https://localhost:{stack.tls_port}",
        verify=ssl.create_default_context(cafile=str(certificate)),
        headers={"Authorization": f"Bearer {keys['auditor'].read_text().strip()}"},
        trust_env=False,
    ) as browser:
        answer = browser.get("/v1/model", headers={"X-Request-ID": "through-tls"})
        assert (answer.status_code, answer.headers["X-Request-ID"]) == (200, "through-tls")
        assert "max-age" in answer.headers["Strict-Transport-Security"]


def test_redis_asks_for_the_password_and_is_durable(stack: Stack) -> None:
    assert "NOAUTH" in stack.execute("redis", "redis-cli", "get", "x")
    asked = "REDISCLI_AUTH=$(cat /run/weir-secrets/redis-password) redis-cli config get "
    for name, value in {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}.items():
        assert stack.execute("redis", "sh", "-c", asked + name).split() == [name, value]


def test_nobody_reads_the_secret_of_another(stack: Stack) -> None:
    others = {
        "prometheus": "redis-password",
        "redis": "metrics-key",
        "alertmanager": "metrics-key",
        "tls": "redis.conf",
    }
    for service, secret in others.items():
        with pytest.raises(AssertionError, match="Permission denied"):
            stack.execute(service, "cat", f"/run/weir-secrets/{secret}")


def test_no_secret_is_in_history_settings_arguments_or_logs(
    stack: Stack, keys: dict[str, Path], services: set[str]
) -> None:
    secrets = [stack.secret(name) for name in ("redis-password", "grafana-password", "metrics-key")]
    secrets.append(stack.secret("tls.key").splitlines()[1])
    secrets += [file.read_text().strip() for file in keys.values()]
    assert min(map(len, secrets)) > 20
    containers = [docker("inspect", stack.container(service)) for service in services]
    arguments = [docker("top", stack.container(service)) for service in services - ONCE]
    image = [docker("history", "--no-trunc", "weir:0.1.0"), docker("inspect", "weir:0.1.0")]
    logs = [stack.logs(service) for service in services]
    for places in (containers, arguments, image, logs):
        assert not [secret[:6] for secret in secrets for text in places if secret in text]


def test_log_lines_are_json_and_carry_request_ids(stack: Stack) -> None:
    httpx.get(f"{stack.url}/v1/model", headers={"X-Request-ID": "find-me-in-the-log"}, trust_env=False)
    lines = [json.loads(line) for line in stack.logs("weir").splitlines()]
    (asked,) = [line for line in lines if line.get("request_id") == "find-me-in-the-log"]
    assert (asked["route"], asked["status"]) == ("/v1/model", 401)


def test_a_second_start_changes_nothing_and_sigterm_ends_weir_in_order(stack: Stack, services: set[str]) -> None:
    names = ("redis-password", "grafana-password", "metrics-key", "tls.key")
    before = [stack.secret(name) for name in names]
    stack.compose("stop", "weir")
    assert stack.inspect("weir")["State"]["ExitCode"] == 0
    assert "stopped at step" in stack.logs("weir").splitlines()[-1]
    stack.up(services)
    assert [stack.secret(name) for name in names] == before
    assert stack.logs("init").count("weir burnin") == 1


def test_data_a_model_and_a_password_of_ones_own(folder: Path, rest: Dataset) -> None:
    password = "given-by-me-0123456789"
    files = {"train.npz": archive(rest, 0, 300), "trusted.npz": archive(rest, 300, 700), "mine.py": MODEL}
    own = Stack(
        folder,
        readable(folder / "own", {"redis-password": password.encode()}),
        f"{PROJECT}-own",
        STACK_FILES=str(readable(folder / "files", files)),
        WEIR_INIT="/files/train.npz --epochs 2 --option width=8",
        WEIR_MODEL="mine:build",
        WEIR_PROBE="/files/trusted.npz",
    )
    try:
        own.up({"weir"})
        assert "model mine:build" in own.logs("weir")
        assert "EXAMPLE" not in own.logs("weir") + own.logs("init")
        assert own.execute("redis", "env", f"REDISCLI_AUTH={password}", "redis-cli", "ping").strip() == "PONG"
    except AssertionError:
        own.tell()
        raise
    finally:
        own.down()


def archive(data: Dataset, start: int, stop: int) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=data.x[start:stop].numpy(), y=data.y[start:stop].numpy())
    return file.getvalue()


def sender(stack: Stack, keys: dict[str, Path], rest: Dataset) -> Sender:
    return Sender(stack.url, keys["steady"].read_text().strip(), rest.x, rest.y)


def httpx_status(stack: Stack) -> int | None:
    try:
        return httpx.get(f"{stack.url}/health/ready", trust_env=False, timeout=5).status_code
    except httpx.HTTPError:
        return None


def test_the_image_is_small_enough(stack: Stack) -> None:
    layers = docker("history", "--format", "{{.Size}}", "--human=false", "weir:0.1.0").split()
    base = docker("history", "--format", "{{.Size}}", "--human=false", "python:3.11-slim").split()
    own = (sum(map(int, layers)) - sum(map(int, base))) / 1e9
    say(f"image: {own:.2f} GB over its base")
    assert own < 1.35
    assert not re.search(r"\bpip install\b.*https?://[^ ]*@", docker("history", "--no-trunc", "weir:0.1.0"))
