"""The stack under test, driven by the docker command as a person would drive it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from weir import datasets
from weir.datasets import Dataset

ROOT = Path(__file__).parents[2]
PROJECT = "weir-stack-test"
GRAFANA = "grafana/grafana:11.6.0"
HEALTHY_SECONDS = 300

_T = TypeVar("_T")


def say(*lines: str) -> None:
    """Tell the person who runs the test."""
    sys.stderr.write("\n".join(("", *lines)))


def docker(*words: str, timeout: float = 60) -> str:
    """What ``docker`` prints; its words and both its outputs are in the error when it fails."""
    return _run(["docker", *words], os.environ, timeout)


def is_present(image: str) -> bool:
    """Whether the engine has an image, or can pull it."""
    for ask in (("image", "inspect", image), ("pull", "-q", image)):
        if subprocess.run(["docker", *ask], capture_output=True, timeout=300).returncode == 0:
            return True
    return False


def until(answer: Callable[[], _T | None], what: str, seconds: float) -> _T:
    """The first answer that is one, or an error that says what was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = answer()
        if found is not None:
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Stack:
    """One project of docker compose, on ports of its own, with the files of ``given`` as its secrets.

    ``keeper`` is the service that has the data, and whose commands are run in.
    """

    def __init__(
        self,
        folder: Path,
        given: Path,
        project: str = PROJECT,
        *,
        profile: str = "tls",
        keeper: str = "weir",
        **settings: str,
    ) -> None:
        self.port, self.tls_port, self.replica_port = _free_port(), _free_port(), _free_port()
        self.url, self.replica_url = (f"http://127.0.0.1:{port}" for port in (self.port, self.replica_port))
        self._folder = folder
        self._project = project
        self._profile = ("--profile", profile)
        self._keeper = keeper
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WEIR_", "STACK_"))},
            "STACK_WEIR_PORT": str(self.port),
            "STACK_REPLICA_PORT": str(self.replica_port),
            "STACK_TLS_PORT": str(self.tls_port),
            "STACK_GRAFANA_PORT": str(_free_port()),
            "STACK_SECRETS": str(given),
            **settings,
        }

    def compose(self, *words: str, timeout: float = 90) -> str:
        files = ("-f", "docker-compose.yml", "-f", "tests/stack/compose.yml")
        return _run(["docker", "compose", "-p", self._project, *files, *words], self._environment, timeout)

    def up(self, services: Iterable[str]) -> None:
        """Start these, and wait until every one of them is healthy, or done."""
        wait = ("--wait", f"--wait-timeout={HEALTHY_SECONDS}")
        self.compose(*self._profile, "up", "-d", *wait, *sorted(services), timeout=HEALTHY_SECONDS + 60)

    def down(self) -> None:
        """Leave nothing behind."""
        self.compose(*self._profile, "down", "-v", "--remove-orphans", timeout=180)

    def tell(self) -> None:
        """What a person would look at first."""
        say(self.compose("ps", "-a"), self.compose("logs", "--no-color", "--tail=100"))

    def secret(self, name: str) -> str:
        return self.execute(self._keeper, "cat", f"/run/weir-secrets/{name}").strip()

    def execute(self, service: str, *words: str) -> str:
        """What a command prints inside of a running service."""
        return self.compose("exec", "-T", service, *words)

    def services(self) -> list[dict[str, Any]]:
        """All containers with ``Service``, ``State``, ``Health`` and ``ExitCode``."""
        return [json.loads(line) for line in self.compose("ps", "-a", "--format", "json").splitlines()]

    def inspect(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(docker("inspect", self.container(service)))
        return dict(found)

    def container(self, service: str) -> str:
        return f"{self._project}-{service}-1"

    def health(self, service: str) -> str:
        return str(self.inspect(service)["State"]["Health"]["Status"])

    def logs(self, service: str) -> str:
        """All that a service has written, as it was written."""
        return _run(["docker", "logs", self.container(service)], self._environment, 60, errors=subprocess.STDOUT)

    def kill(self, service: str) -> None:
        """SIGKILL from outside, as the kernel does it: the engine sees a crash, which a ``docker kill`` is none."""
        before = self.inspect(service)["State"]
        os.kill(before["Pid"], signal.SIGKILL)

        def is_back() -> bool | None:
            now = self.inspect(service)["State"]
            anew = now["StartedAt"] != before["StartedAt"]
            return True if anew and now["Running"] and now["Health"]["Status"] == "healthy" else None

        until(is_back, f"{service} healthy again after SIGKILL", 90)

    def key(self, name: str, *roles: str) -> Path:
        """A new API key, in a file."""
        file = self._folder / f"{name}.key"
        options = [word for role in roles for word in ("--role", role)]
        file.write_text(self.execute(self._keeper, "weir", "keys", "add", name, *options))
        return file

    def example_rest(self) -> Dataset:
        """The example's samples that nobody has learned from yet."""
        file = self._folder / "rest.npz"
        self.compose("cp", f"{self._keeper}:/data/example-rest.npz", str(file))
        return datasets.load(file)

    def weir(self, *words: str, timeout: float = 120) -> Any:
        """What the command line on this machine answers about the service in the container, as JSON."""
        command = [sys.executable, "-m", "weir", *words, "--json"]
        mine = {name: value for name, value in self._environment.items() if not name.startswith("WEIR_")}
        environment = {**mine, "WEIR_URL": self.url, "PYTHONPATH": str(ROOT / "service")}
        return json.loads(_run(command, environment, timeout, folder=self._folder))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant vector from Prometheus."""
        address = f"http://127.0.0.1:9090/api/v1/query?query={expression}"
        result: list[dict[str, Any]] = json.loads(self.execute("prometheus", "wget", "-q", "-O", "-", address))["data"][
            "result"
        ]
        return result

    def alerts(self) -> set[str]:
        """The names of the alerts that have reached the webhook while they fired."""
        bodies = [json.loads(line) for line in self.logs("hook").splitlines() if line.startswith("{")]
        return {
            alert["labels"]["alertname"] for body in bodies for alert in body["alerts"] if alert["status"] == "firing"
        }


def _run(
    command: Sequence[str], environment: Any, timeout: float, folder: Path = ROOT, errors: int = subprocess.PIPE
) -> str:
    done = subprocess.run(
        command,
        env=dict(environment),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=errors,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{' '.join(command)}\nexit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
