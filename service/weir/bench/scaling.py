"""How far a group of ranks scales: a step from bytes, FLOPs and a few constants, and which part of it gives out first.

A model of machines that nothing here was run on: every constant says whether it was measured or is an assumption.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from weir import __version__
from weir.bench.traffic import hardware
from weir.core import Engine, EngineConfig, GuardConfig, build
from weir.core.probe import SHARES
from weir.core.ranks import Alone
from weir.types import InputSpec, Recipe, SampleRef, Step

GPUS = (1, 2, 4, 8, 16, 32, 64)
TARGET = 1e6  # samples per second
ROUNDS = 5
MESSAGES = 16  # of a step between ranks, most of a few bytes: counted by weir bench ranks
MANY = 64  # ranks of the group that the serial part is measured as one of


def _constant(default: float, source: str) -> Any:
    return dataclasses.field(default=default, metadata={"source": source})


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What the machines do, in seconds, bytes and FLOPs per second."""

    gpu_flops: float = _constant(67e12, "vendor: one H100 SXM, float32")
    gpu_efficiency: float = _constant(0.4, "assumption: share of it that convolutions reach")
    node_gpus: int = _constant(8, "assumption: GPUs of one machine")
    node_bandwidth: float = _constant(450e9, "vendor: NVLink 4, one direction, one GPU")
    network_bandwidth: float = _constant(50e9, "vendor: InfiniBand NDR, 400 Gb/s for each GPU")
    hop_seconds: float = _constant(10e-6, "assumption: one hop of nccl's all-reduce")
    meet_seconds: float = _constant(1e-4, "assumption: one hop of a small gloo message between machines")
    trainer_seconds: float = _constant(
        4e-6, "measured: rank 0's reading, cutting and journalling of a sample, one core"
    )
    vaccine_forwards: float = _constant(6_700, "measured: samples sent forward by one vaccination, and back")
    replica_rate: float = _constant(1e5, "assumption: samples/s through one API replica, in POSTs of 1000")
    ethernet: float = _constant(3.1e9, "assumption: the Redis server's link, 25 Gb/s each way")
    redis_disk: float = _constant(2e9, "assumption: the disk of its append-only file, bytes/s written and synced")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The model that learns, and how: ``step`` samples a step of ``bytes`` each, a probe set of ``probe``."""

    model: str = "resnet18"
    width: int = 64
    step: int = 16_384
    probe: int = 10_000
    bytes: int = 3_072
    constants: Constants = dataclasses.field(default_factory=Constants)


@dataclass(frozen=True, slots=True)
class Serial:
    """What every rank does alone for a step of n samples: ``fixed + each · n`` seconds, measured on this machine."""

    fixed: float
    each: float


class Echo(Alone):
    """One of many ranks, the others of which find what this one finds: what is left is what no rank can share."""

    size = MANY

    def deal(self, rows: Tensor) -> Tensor:
        """See ``Ranks.deal``."""
        return self.own(rows)

    def own(self, rows: Tensor) -> Tensor:
        """See ``Ranks.own``."""
        return rows[: -(-len(rows) // self.size)]

    def counted(self, flags: Tensor) -> Tensor:
        """See ``Ranks.counted``."""
        return self.own(flags)

    def gather(self, own: Tensor, n: int) -> Tensor:
        """See ``Ranks.gather``."""
        return own.repeat(self.size, *[1] * (own.ndim - 1))[:n]


def model(plan: Plan, serial: Serial | None = None) -> dict[str, Any]:
    """Seconds of every part of a step on 1 to 64 GPUs, and the samples per second at which each part gives out."""
    serial = serial or measured()
    flops, parameters = cost(plan)
    rows: list[dict[str, Any]] = []
    for gpus in GPUS:
        seconds = parts(plan, serial, gpus, flops=flops, parameters=parameters)
        rate = plan.step / sum(seconds.values())
        most = max(seconds, key=seconds.__getitem__)
        rows.append({"gpus": gpus, "samples_per_second": rate, "seconds": seconds, "most": most})
    last = rows[-1]["seconds"]
    return {
        "benchmark": "scaling",
        "plan": asdict(plan),
        "sources": {field.name: field.metadata["source"] for field in dataclasses.fields(Constants)},
        "flops_per_sample": flops,
        "parameters": parameters,
        "serial": asdict(serial),
        "rows": rows,
        "limits": dict(sorted(limits(plan, last).items(), key=lambda limit: limit[1])),
        "replicas_for_target": math.ceil(TARGET / plan.constants.replica_rate),
        "hardware": hardware("cpu"),
        "versions": {"weir": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def parts(plan: Plan, serial: Serial, gpus: int, *, flops: float, parameters: int) -> dict[str, float]:
    """The seconds of one step, part by part; the parts come one after the other."""
    known, config = plan.constants, EngineConfig()
    speed = known.gpu_flops * known.gpu_efficiency
    hops = math.ceil(math.log2(gpus)) if gpus > 1 else 0
    bandwidth = known.node_bandwidth if gpus <= known.node_gpus else known.network_bandwidth
    others = (gpus - 1) / gpus
    forwards: float = 4 * plan.step  # scoring, which training goes back through at twice the price, and the anchor
    forwards += plan.probe * (SHARES["fit"] + SHARES["threshold"]) / config.guard.refresh
    forwards += plan.probe * SHARES["gate"] / config.gate.turns
    return {
        "compute": forwards / gpus * flops / speed,
        "vaccine": known.vaccine_forwards * 3 * flops / speed / config.guard.vaccine_refresh,
        "gradients": 2 * others * 4 * parameters / bandwidth + 2 * hops * known.hop_seconds,
        "deal": plan.step * plan.bytes * others / bandwidth,
        "messages": MESSAGES * hops * known.meet_seconds,
        "judging": serial.fixed + serial.each * plan.step,
        "trainer": known.trainer_seconds * plan.step,
    }


def limits(plan: Plan, seconds: Mapping[str, float]) -> dict[str, float]:
    """Samples per second of each part, were it alone: of the group as it is, and of what stands before it."""
    known = plan.constants
    group = {f"group: {part}": plan.step / spent for part, spent in seconds.items() if spent > 0}
    return group | {
        "one API replica": known.replica_rate,
        "Redis: link": known.ethernet / plan.bytes,
        "Redis: disk": known.redis_disk / plan.bytes,
    }


def cost(plan: Plan) -> tuple[float, int]:
    """FLOPs of one sample's forward pass, counted, and the number of parameters."""
    module = build(Recipe(plan.model, InputSpec((3, 32, 32), 10), {"width": plan.width})).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    return float(counter.get_total_flops()), sum(parameter.numel() for parameter in module.parameters())


def measured(sizes: tuple[int, int] = (2_000, 16_000)) -> Serial:
    """Process steps of two sizes as one of many ranks, with a model that costs next to nothing."""
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe("mlp", InputSpec((6,), 3), {"hidden": 4})
    engine = Engine(recipe, EngineConfig(guard=GuardConfig(vaccine=False)), ranks=Echo())
    engine.set_probe(*_samples(1_000, generator), created_at=0.0, source="bench")
    engine.set_anchor()
    small, large = (_seconds(engine, n, generator) for n in sizes)
    each = (large - small) / (sizes[1] - sizes[0])
    return Serial(max(0.0, small - each * sizes[0]), each)


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown tables, the assumptions below them."""
    plan, rows = result["plan"], result["rows"]
    names = list(rows[0]["seconds"])
    head = ["GPUs", "samples / s", "of one GPU's", *(f"{name}, ms" for name in names), "most of it"]
    lines = [
        f"{plan['model']} width {plan['width']}: {result['flops_per_sample'] / 1e9:.2f} GFLOP forward, "
        f"{result['parameters'] / 1e6:.1f} M parameters; steps of {plan['step']} samples of {plan['bytes']} bytes, "
        f"probe set {plan['probe']}. A model, not a measurement.",
        "",
        _line(head),
        _line(["--:"] * (len(head) - 1) + ["---"]),
    ]
    for row in rows:
        share = row["samples_per_second"] / rows[0]["samples_per_second"]
        spent = [f"{1e3 * row['seconds'][name]:.2f}" for name in names]
        lines.append(
            _line([str(row["gpus"]), f"{row['samples_per_second']:,.0f}", f"{share:.1f}", *spent, row["most"]])
        )
    lines += ["", f"| on {rows[-1]['gpus']} GPUs, were it alone | samples / s | for {TARGET:,.0f} |", "|---|--:|--:|"]
    lines += [_line([part, f"{rate:,.0f}", f"{TARGET / rate:.2f} ×"]) for part, rate in result["limits"].items()]
    constants = {name: (plan["constants"][name], source) for name, source in result["sources"].items()}
    lines += ["", "| constant | value | from |", "|---|--:|---|"]
    lines += [_line([name, f"{value:g}", source]) for name, (value, source) in constants.items()]
    serial, machine = result["serial"], result["hardware"]["device"]
    lines.append(
        _line(["judging", f"{serial['fixed']:.2g} + {serial['each']:.2g} n", f"measured: {machine}, one core"])
    )
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(engine: Engine, n: int, generator: torch.Generator) -> float:
    """Processor seconds of one step, the median; the first is not counted."""
    spent = []
    for number in range(ROUNDS + 1):
        x, y = _samples(n, generator)
        step = Step(number, x, y, [SampleRef("bench", index) for index in range(n)], ["bench"] * n)
        start = time.process_time()
        engine.process(step)
        spent.append(time.process_time() - start)
    return statistics.median(spent[1:])


def _samples(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 3
    return torch.randn(n, 6, generator=generator) + y[:, None], y
