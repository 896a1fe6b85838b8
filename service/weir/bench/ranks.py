"""What a group of ranks learns in a second: strong and weak scaling over processes of one thread each.

``measure`` starts the ranks by torchrun; each runs this module, and rank 0 leaves its figures in a file.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from weir.bench import traffic
from weir.bench.cache import read_state, write_state
from weir.core import Engine, EngineConfig, GuardConfig
from weir.core.group import Group
from weir.core.ranks import ALONE
from weir.types import Recipe, State

TABLE_HEAD = (
    "| scaling | ranks | samples / step | s / step | lowest – highest | samples / s | of one rank's | busy s / step "
    "| s in messages | messages / step | KB / step and rank |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)


MEETINGS = 200


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: ``rounds`` steps of ``step`` images on each number of ranks, of a model that has learned such.

    Then as many with ``step`` samples for each rank: strong scaling, and weak.
    """

    model: str = "resnet18"
    width: int = 16
    step: int = 128
    probe: int = 1000
    ranks: tuple[int, ...] = (1, 2)
    rounds: int = 12
    warmup: int = 3
    device: str = "cpu"
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One number of ranks: seconds per step, and what rank 0 spent of them in messages, waiting included.

    ``busy_seconds`` is the processor time of rank 0, which other programs on the machine do not add to.
    ``meet_seconds`` is what the smallest message takes where nobody is waited for; ``kilobytes`` are what one rank
    hands over for a step: its rows, its evidence, its gradients.
    """

    scaling: str
    ranks: int
    step: int
    median_seconds: float
    low_seconds: float
    high_seconds: float
    samples_per_second: float
    busy_seconds: float
    message_seconds: float
    meet_seconds: float
    messages: float
    kilobytes: float


class Timed(Group):
    """A group that counts its messages, their bytes, and the seconds until they are there."""

    def __init__(self, patient: dist.ProcessGroup, *, device: str) -> None:
        super().__init__(patient, device=device)
        self.seconds, self.messages, self.bytes = 0.0, 0, 0

    def deal(self, rows: Tensor) -> Tensor:
        """See ``Ranks.deal``."""
        given: Tensor = self._counted(lambda: super(Timed, self).deal(rows), rows.nbytes / self.size)
        return given

    def gather(self, own: Tensor, n: int) -> Tensor:
        """See ``Ranks.gather``."""
        given: Tensor = self._counted(lambda: super(Timed, self).gather(own, n), own.nbytes)
        return given

    def add(self, tensors: Sequence[Tensor]) -> None:
        """See ``Ranks.add``."""
        self._counted(lambda: super(Timed, self).add(tensors), sum(tensor.nbytes for tensor in tensors))

    def agree(self, tensor: Tensor) -> Tensor:
        """See ``Ranks.agree``."""
        given: Tensor = self._counted(lambda: super(Timed, self).agree(tensor), tensor.nbytes)
        return given

    def meet(self, place: str, error: Exception | None = None) -> None:
        """See ``Group.meet``."""
        self._counted(lambda: super(Timed, self).meet(place, error), 24)

    def _counted(self, send: Callable[[], Any], size: float) -> Any:
        start = time.perf_counter()
        given = send()
        self.seconds += time.perf_counter() - start
        self.messages += 1
        self.bytes += int(size)
        return given


def measure(plan: Plan, progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Run the plan; returns JSON-ready rows with hardware, versions and everything that was set."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        learned = Path(folder) / "learned.npz"
        write_state(learned, _burned_in(plan))
        for scaling in ("strong", "weak"):
            for ranks in plan.ranks:
                size = plan.step if scaling == "strong" else plan.step * ranks
                rows.append({"scaling": scaling, **_started(replace(plan, step=size), ranks, learned)})
                progress()
    return traffic.result("ranks", asdict(plan), rows, plan.device)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table with what was set above it."""
    plan, machine = result["plan"], result["hardware"]
    model = f"{plan['model']} width {plan['width']}, probe set {plan['probe']}, {plan['rounds']} steps"
    where = f"{machine['device']}, {plan['threads']} threads each, torch {result['versions']['torch']}"
    first = {row["scaling"]: row for row in reversed(result["rows"])}
    rows = [
        f"| {row['scaling']} | {row['ranks']} | {row['step']} | {row['median_seconds']:.3f} "
        f"| {row['low_seconds']:.3f} – {row['high_seconds']:.3f} | {row['samples_per_second']:.0f} "
        f"| {row['samples_per_second'] / first[row['scaling']]['samples_per_second']:.2f} "
        f"| {row['busy_seconds']:.3f} | {row['message_seconds']:.4f} | {row['messages']:.0f} | {row['kilobytes']:.0f} |"
        for row in result["rows"]
    ]
    return "\n".join([f"{model}, {where}", "", *TABLE_HEAD, *rows])


def _burned_in(plan: Plan) -> State:
    """An engine that has learned the traffic: the evidence of one that has not moves at every step, as no other's."""
    torch.set_num_threads(plan.threads)
    make = traffic.burned_in(_recipe(plan), _config(plan), probe=plan.probe, seed=plan.seed)
    return make(_config(plan)).state()


def _started(plan: Plan, ranks: int, learned: Path) -> dict[str, Any]:
    """The figures of so many processes."""
    out = learned.with_name("row.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    given = [json.dumps(asdict(plan)), str(learned), str(out)]
    subprocess.run([*command, "-m", "weir.bench.ranks", *given], check=True)
    row: dict[str, Any] = json.loads(out.read_text())
    return row


def _run(plan: Plan, learned: Path, out: Path) -> None:
    """One rank's part, under torchrun."""
    torch.set_num_threads(plan.threads)
    cuda = plan.device == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=2))
    if cuda:
        torch.cuda.set_device(dist.get_rank())
    group = Timed(dist.new_group(backend="gloo"), device=plan.device)
    row = _measured(plan, group, read_state(learned))
    if group.rank == 0:
        out.write_text(json.dumps({name: value for name, value in asdict(row).items() if name != "scaling"}))
    dist.destroy_process_group()


def _measured(plan: Plan, group: Timed, learned: State) -> Row:
    engine = Engine(_recipe(plan), _config(plan), ranks=group if group.size > 1 else ALONE)
    engine.load_state(learned)
    generator = torch.Generator().manual_seed(plan.seed + 1)
    seconds, busy = [], []
    for number in range(plan.warmup + plan.rounds):
        step = traffic.step(number, *traffic.samples(plan.step, generator))
        if group.rank:
            step = replace(step, x=step.x.to("meta"))
        if number == plan.warmup:
            group.seconds, group.messages, group.bytes = 0.0, 0, 0
        dist.barrier()
        start, work = time.perf_counter(), time.process_time()
        engine.process(step)
        traffic.synchronise(plan.device)
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - work)
    counted = seconds[plan.warmup :]
    waited, messages, kilobytes = (value / plan.rounds for value in (group.seconds, group.messages, group.bytes / 1e3))
    meeting = _meeting(group)
    median = statistics.median(counted)
    return Row(
        "",
        group.size,
        plan.step,
        median,
        min(counted),
        max(counted),
        plan.step / median,
        statistics.median(busy[plan.warmup :]),
        waited,
        meeting,
        messages,
        kilobytes,
    )


def _meeting(group: Timed) -> float:
    start = time.perf_counter()
    for _ in range(MEETINGS):
        group.meet("a place")
    return (time.perf_counter() - start) / MEETINGS


def _recipe(plan: Plan) -> Recipe:
    return traffic.recipe(plan.model, plan.width, "batch")


def _config(plan: Plan) -> EngineConfig:
    """Without a vaccine, which is not made anew in the steps that are measured."""
    return EngineConfig(guard=GuardConfig(vaccine=False), step_size=plan.step, device=plan.device)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    _run(Plan(**given | {"ranks": tuple(given["ranks"])}), Path(sys.argv[2]), Path(sys.argv[3]))
