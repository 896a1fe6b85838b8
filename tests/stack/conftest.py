"""One stack for all tests of this folder, from its first start to its end, and who speaks to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.stack.engine import GRAFANA, Stack, is_present, say

from weir.client import Client
from weir.datasets import Dataset

ONCE = {"secrets", "init"}
LASTING = {"weir", "redis", "prometheus", "alertmanager", "tls", "hook"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def services() -> set[str]:
    """What is started: all there is, and Grafana too if its image can be had."""
    if is_present(GRAFANA):
        return ONCE | LASTING | {"grafana"}
    say(f"Grafana is NOT tested: {GRAFANA} is neither here nor in a registry that can be reached")
    return ONCE | LASTING


@pytest.fixture(scope="module")
def stack(folder: Path, services: set[str]) -> Iterator[Stack]:
    given = readable(folder / "given", {"alert-webhook-url": b"http://hook:9099/alerts"})
    with started(Stack(folder, given), services) as made:
        yield made


@contextmanager
def started(made: Stack, services: set[str]) -> Iterator[Stack]:
    """A stack whose services, of an image that is up to date, are healthy; nothing is left of it in the end."""
    made.down()
    try:
        timed("image built", lambda: made.compose("build", "secrets", "init", "weir", timeout=900))
        timed("every service healthy", lambda: made.up(services))
        yield made
    except BaseException:
        made.tell()
        raise
    finally:
        made.down()


def readable(folder: Path, files: dict[str, bytes]) -> Path:
    """A new folder with these files, which the users of the containers may read."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


def timed(what: str, deed: Callable[[], object]) -> None:
    started = time.monotonic()
    deed()
    say(f"{what} after {time.monotonic() - started:.0f} s")


@pytest.fixture(autouse=True)
def told(stack: Stack, request: pytest.FixtureRequest) -> Iterator[None]:
    """The logs of everything, where a test has failed."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        stack.tell()


@pytest.fixture(scope="module")
def keys(stack: Stack) -> dict[str, Path]:
    return {
        "ops": stack.key("ops", "admin"),
        "steady": stack.key("steady", "producer"),
        "mallory": stack.key("mallory", "producer"),
        "auditor": stack.key("auditor", "reader"),
    }


@pytest.fixture(scope="module")
def rest(stack: Stack) -> Dataset:
    return stack.example_rest()


@pytest.fixture(scope="module")
def auditor(stack: Stack, keys: dict[str, Path]) -> Iterator[Client]:
    with Client(stack.url, keys["auditor"].read_text().strip(), patience=60.0) as client:
        yield client
