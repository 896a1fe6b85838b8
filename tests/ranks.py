"""Groups of real processes over gloo, for tests: a job is run by every rank, and what each gives comes back."""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from weir.core.group import Group

PATIENCE = 60.0  # seconds
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["weir.core.group", "weir.redteam", "weir.trainer", "torch._dynamo"])
Job = Callable[..., Any]


def run(size: int, job: Job, *given: Any, lost: int = 0) -> list[Any]:
    """What ``job(group, *given)`` gives on every rank, or the error it raises; ``lost`` ranks give nothing."""
    answers = FORKS.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            FORKS.Process(target=_one, args=(rank, size, Path(folder) / "store", answers, job, given))
            for rank in range(size)
        ]
        for process in ranks:
            process.start()
        try:
            heard = dict(_heard(answers) for _ in range(size - lost))
        finally:
            deadline = time.monotonic() + 5
            for process in ranks:
                process.join(max(0.0, deadline - time.monotonic()))
                process.kill()
                process.join()
            answers.close()
    return [heard.get(rank) for rank in range(size)]


def opened(rank: int, size: int, store: Path) -> Group:
    """The group of this process."""
    patience = timedelta(seconds=PATIENCE / 2)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=patience)
    return Group(dist.new_group(backend="gloo", timeout=patience))


def _heard(answers: Any) -> tuple[int, Any]:
    try:
        answer: tuple[int, Any] = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise AssertionError(f"a rank gave no answer in {PATIENCE:g} s") from None
    return answer


def _one(rank: int, size: int, store: Path, answers: Any, job: Job, given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        answer = job(opened(rank, size, store), *given)
    except Exception as error:
        answer = error
    answers.put((rank, answer))
