"""A learner over two processes under the real torchrun: killed and restarted, and against one process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
import torch
from tests.faults import harness
from tests.faults.backends import SqliteBackend
from tests.faults.digest import Run
from tests.faults.harness import Trial
from tests.faults.model import CLASSES, FEATURES, burned_in
from tests.faults.service import Process, Service
from torch._C._distributed_c10d import HashStore
from typer.testing import CliRunner

from weir import config, folder
from weir.errors import InvalidSetting
from weir.types import InputSpec, Recipe, State
from weir.worker.__main__ import app, joined
from weir.worker.rendezvous import met

RANKS = 2
TOLERANCE = 1e-4  # of weights after some dozen steps
A_RANK = 0.1  # of a score: rounding may take a signal past one trusted sample's, and its p-value is one rank off then
RECIPE = Recipe("mlp", InputSpec((FEATURES,), CLASSES, 0.0, 1.0), {"hidden": 16})
ENVIRONMENT = {
    **harness.ENVIRONMENT,
    **harness.WITHOUT_VACCINE,
    "WEIR_STEP_SIZE": "15",  # one rank has a sample more than the other
    "WEIR_LEARNER_FREEZE_NORM": "true",
    "WEIR_CORRECTION_ENABLED": "false",  # it moves samples by signs, and those of rounding errors are anyone's guess
}


class Group(Service):
    """``python -m weir.worker`` on two ranks, on a port that outlives them."""

    def __init__(self, environment: Mapping[str, str], log: Path, check: Callable[[], None]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        super().__init__({**environment, "WEIR_PORT": port}, log, check=check)

    def kill_rank(self, rank: int) -> None:
        """End one rank as a power cut would, and wait until the group is there again."""
        starts = self.told.count("listening on")
        os.kill(self.ranks()[rank], signal.SIGKILL)
        self.wait(lambda: self.told.count("listening on") > starts, "start anew")

    def ranks(self) -> dict[int, int]:
        """The processes by their rank."""
        assert self._running is not None
        parent = self._running.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return {_rank(int(child)): int(child) for child in children}

    def stop(self) -> None:
        """See ``Service.stop``: torchrun itself calls a signal a failure."""
        ranks = self.ranks().values()
        self.signal(signal.SIGTERM)
        self.wait(lambda: self.exit is not None, "stop")
        self.wait(lambda: not any(Path(f"/proc/{process}").exists() for process in ranks), "end all ranks")
        assert "stopped at step" in self.told, self.tail
        assert "rank 1 ends" in self.told, self.tail

    def _served(self, log: IO[bytes]) -> Process:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        return subprocess.Popen(
            [*command, "--max-restarts=5", "-m", "weir.worker"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _rank(process: int) -> int:
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next(int(value[5:]) for value in variables if value.startswith(b"RANK="))


def weights(data: Path) -> torch.Tensor:
    """All of the newest checkpoint's."""
    with folder.stores(config.load(data=data)) as stores:
        newest = stores.checkpoints.newest()
    assert newest is not None
    state: State = newest[1].part("engine").part("learner").part("weights")
    return torch.cat([state.tensors[name].flatten() for name in sorted(state.tensors)])


def compare(two: Run, one: Run) -> int:
    """Assert that two runs over one log decided the same; returns how many verdicts fell on a threshold and differ."""
    assert [(d.start, d.end, d.refs, d.updated, d.vetoed) for d in two.decisions] == [
        (d.start, d.end, d.refs, d.updated, d.vetoed) for d in one.decisions
    ]
    pairs = [
        pair
        for ours, theirs in zip(two.decisions, one.decisions, strict=True)
        for pair in zip(ours.verdicts, theirs.verdicts, strict=True)
    ]
    unlike = [(a, b) for a, b in pairs if (a.verdict, a.reason) != (b.verdict, b.reason)]
    for a, b in unlike:
        assert a.score == pytest.approx(a.threshold, abs=A_RANK), (a, b)
    return len(unlike)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds ranks in /proc")
def test_ranks_that_are_killed_lose_nothing_learn_nothing_twice_and_decide_as_one_process(tmp_path: Path) -> None:
    template = tmp_path / "template"
    burned_in(template, ENVIRONMENT, RECIPE)
    backend = SqliteBackend(tmp_path / "data", template)
    with Trial(backend, tmp_path / "log", seed=3, environment=ENVIRONMENT) as trial:
        trial.service = group = Group({**ENVIRONMENT, **backend.environment}, tmp_path / "log", trial.traffic.check)
        trial.serve()
        for rank in (1, 0):
            trial.wait_for(8)
            group.kill_rank(rank)
        trial.wait_for(8)
        trial.finish()
    with backend.stores() as stores:
        two = Run.read(stores)
    acknowledged = trial.traffic.acknowledged
    assert (two.lost(acknowledged), two.doubled(), two.undecided()) == ([], [], [])
    one = harness.run_straight(backend, tmp_path / "log", ENVIRONMENT)
    assert sum(len(decision.verdicts) for decision in one.decisions) > 200
    if compare(two, one) == 0:
        alone = tmp_path / "log-straight" / "data"
        assert float((weights(backend.data) - weights(alone)).abs().max()) <= TOLERANCE


def test_without_torchrun_it_is_a_group_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weir.worker", "--data", str(tmp_path / "data"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "weir: this data folder holds no model yet: run `weir burnin` first" in done.stderr


def test_a_rank_takes_the_gpu_of_its_number_and_no_other() -> None:
    with pytest.raises(InvalidSetting, match="WEIR_DEVICE: expected cpu or cuda"), joined("cuda:1"):
        pass


def test_its_help_says_how_it_is_started() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "torchrun --standalone --nproc-per-node 2" in shown


def test_ranks_that_start_anew_do_not_meet_those_that_died() -> None:
    store = HashStore()
    for name in ("first", "second"):
        with ThreadPoolExecutor() as threads:
            waits = threads.submit(met, store, 1, 2)  # what it finds is of an earlier start
            leads = threads.submit(met, store, 0, 2)
            leads.result(10).set("who", name)
            assert waits.result(10).get("who").decode() == name
