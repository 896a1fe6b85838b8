"""The README keeps its word: its commands run as they stand, its settings are the settings."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from weir import config
from weir.client import Client

README = (Path(__file__).parents[1] / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8790"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the bash blocks, its continuation lines joined."""
    return [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def curl(command: str) -> str:
    """What the command prints: by curl itself where there is one, since a bare machine has none."""
    if shutil.which("curl"):
        return subprocess.run(shlex.split(command), check=True, capture_output=True, text=True, timeout=60).stdout
    words, headers, data = shlex.split(command)[1:], {}, None
    while words:
        match words.pop(0):
            case "-s":
                pass
            case "-H":
                name, value = words.pop(0).split(": ", 1)
                headers[name] = value
            case "-d":
                data = words.pop(0)
            case url:
                address = url
    return httpx.request("POST" if data else "GET", address, headers=headers, content=data, trust_env=False).text


@contextmanager
def serving(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """``weir serve`` as the README starts it, until it is ready and to its end."""
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "weir", "serve"], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            with Client(environment["WEIR_URL"]) as client:
                client.wait_ready(60)
            yield
        finally:
            process.terminate()
            assert process.wait(30) == 0, (folder / "serve.log").read_text()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    """A folder in which the README's first two commands have been run, and the environment they ran in."""
    folder, port = tmp_path_factory.mktemp("readme"), free_port()
    others = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    environment = {**others, "WEIR_PORT": str(port), "WEIR_URL": f"http://127.0.0.1:{port}"}
    first, second = commands()[:2]
    run_weir(first, environment, folder)
    assert second == "weir serve"
    with serving(environment, folder):
        yield environment, folder


def run_weir(command: str, environment: dict[str, str], folder: Path) -> str:
    """What a ``weir`` command prints."""
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_works_as_it_stands(house: tuple[dict[str, str], Path]) -> None:
    environment, folder = house
    following = commands()[2:]
    assert {line.split()[0] for line in following} == {"weir", "curl"}
    for line in following:
        if line.startswith("weir"):
            assert "accept" in run_weir(line, environment, folder)
        else:
            answer = json.loads(curl(line.replace(ADDRESS, environment["WEIR_URL"])))
            assert "code" not in answer
            assert {"verdicts", "items"} & set(answer)


def test_the_python_example_learns_and_predicts(house: tuple[dict[str, str], Path]) -> None:
    environment, folder = house
    (example,) = blocks("python")
    code = example.replace(ADDRESS, environment["WEIR_URL"])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Counts(accept=" in done.stdout
    assert "tensor([" in done.stdout


def test_the_settings_are_those_of_the_code() -> None:
    found = re.search(r"<!-- settings -->\n(.*)<!-- /settings -->", README, re.DOTALL)
    assert found
    assert found[1].strip() == config.render_table().strip()
