"""What a group of ranks learns in a second: strong and weak scaling over processes of one thread each.

``measure`` starts the ranks by torchrun; each runs this module, and rank 0 leaves its figures in a file.
"""

from __future__ import annotations

import json
import platform
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

from weir import __version__
from weir.bench.traffic import hardware
from weir.core import Engine, EngineConfig, GuardConfig, LearnerConfig
from weir.core.group import Group
from weir.core.ranks import ALONE, Ranks
from weir.types import GuardMode, InputSpec, Recipe, SampleRef, Step

TABLE_HEAD = (
    "| scaling | ranks | samples / step | s / step | lowest – highest | samples / s | of one rank's | busy s / step "
    "| s in messages | messages / step | KB / step and rank |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)


MEETINGS = 200


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: ``rounds`` steps of Gaussian images on each number of ranks, all of ``step`` samples.

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
    for scaling in ("strong", "weak"):
        for ranks in plan.ranks:
            size = plan.step if scaling == "strong" else plan.step * ranks
            rows.append({"scaling": scaling, **_started(replace(plan, step=size), ranks)})
            progress()
    return {
        "benchmark": "ranks",
        "plan": asdict(plan),
        "rows": rows,
        "hardware": hardware(plan.device),
        "versions": {"weir": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


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


def _started(plan: Plan, ranks: int) -> dict[str, Any]:
    """The figures of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        subprocess.run([*command, "-m", "weir.bench.ranks", json.dumps(asdict(plan)), str(out)], check=True)
        row: dict[str, Any] = json.loads(out.read_text())
    return row


def _run(plan: Plan, out: Path) -> None:
    """One rank's part, under torchrun."""
    torch.set_num_threads(plan.threads)
    cuda = plan.device == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=2))
    if cuda:
        torch.cuda.set_device(dist.get_rank())
    group = Timed(dist.new_group(backend="gloo"), device=plan.device)
    row = _measured(plan, group)
    if group.rank == 0:
        out.write_text(json.dumps({name: value for name, value in asdict(row).items() if name != "scaling"}))
    dist.destroy_process_group()


def _measured(plan: Plan, group: Timed) -> Row:
    generator = torch.Generator().manual_seed(plan.seed)
    engine = _engine(plan, group if group.size > 1 else ALONE, generator)
    seconds, busy = [], []
    for number in range(plan.warmup + plan.rounds):
        step = _step(plan, number, generator, whole=group.rank == 0)
        if number == plan.warmup:
            group.seconds, group.messages, group.bytes = 0.0, 0, 0
        dist.barrier()
        start, work = time.perf_counter(), time.process_time()
        engine.process(step)
        _synchronise(plan.device)
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


def _engine(plan: Plan, ranks: Ranks, generator: torch.Generator) -> Engine:
    """A guard with a past: the anchor is the fresh model, and a few unguarded updates give it a present."""
    config = EngineConfig(
        learner=LearnerConfig(lr=0.01, momentum=0.9),
        guard=GuardConfig(vaccine=False),
        step_size=plan.step,
        device=plan.device,
    )
    engine = Engine(Recipe(plan.model, InputSpec((3, 32, 32), 10), {"width": plan.width}), config, ranks=ranks)
    engine.set_probe(*_samples(plan.probe, generator), created_at=0.0, source="bench")
    engine.set_anchor()
    engine.set_mode(GuardMode.OFF)
    for number in range(2):
        engine.process(_step(plan, -1 - number, generator, whole=ranks.rank == 0))
    engine.set_mode(GuardMode.WEIR)
    return engine


def _samples(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 10
    return torch.randn(n, 3, 32, 32, generator=generator) + y.view(-1, 1, 1, 1) / 10, y


def _step(plan: Plan, number: int, generator: torch.Generator, *, whole: bool) -> Step:
    x, y = _samples(plan.step, generator)
    refs = [SampleRef(f"bench{number}", index) for index in range(plan.step)]
    return Step(number, x if whole else x.to("meta"), y, refs, ["bench"] * plan.step)


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    _run(Plan(**given | {"ranks": tuple(given["ranks"])}), Path(sys.argv[2]))
