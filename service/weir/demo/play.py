"""The demo from end to end: three services, one stream, one attack, one answer."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

import weir
from weir.client import BatchReport
from weir.demo import story
from weir.demo.outcome import judge
from weir.demo.record import GUARDED, REFERENCE, UNGUARDED, Moment, Record, Sighting
from weir.demo.screen import Screen, summary, watching
from weir.demo.services import WAIT_SECONDS, Service, running
from weir.demo.story import STANDARD, Parts, Phase, Plan
from weir.errors import InvalidInput
from weir.redteam import ThreatModel
from weir.redteam.producer import HostileProducer
from weir.types import Batch, GuardMode

MODES = {GUARDED: GuardMode.WEIR, UNGUARDED: GuardMode.OFF, REFERENCE: GuardMode.OFF}
TERMINATED = 128 + signal.SIGTERM


def run(out: Path, seed: int, json_only: bool, console: Console, plan: Plan = STANDARD) -> int:
    """Play the story with one seed, write a picture and its numbers into ``out``, and return the exit code.

    It is 0 only if the attack bites without a guard, the guard stops it, and the guarded model still learns. With
    ``json_only`` the numbers are all that is printed. The services' logs are kept in ``out`` when something fails.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidInput("matplotlib", "not installed", "the library: pip install weir[data]")
    from weir.demo.picture import draw

    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with _terminable(), TemporaryDirectory(prefix="weir-demo-") as folder:
        base = Path(folder)
        try:
            with watching(console, quiet=json_only) as screen:
                record = _play(plan, seed, base, screen)
        except Exception:
            _keep_logs(base, out)
            raise
        outcome = judge(record, judged=plan.judged)
        if not outcome.passed:
            _keep_logs(base, out)
    draw(record, out / "demo.png")
    numbers = json.dumps({"outcome": outcome.to_values(), "record": record.to_values()}, indent=1)
    (out / "demo.json").write_text(numbers + "\n")
    if json_only:
        console.print(numbers, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(summary(record, outcome, out), soft_wrap=True, highlight=False)
    return 0 if outcome.passed else 1


@dataclass(frozen=True, slots=True)
class _Seat:
    """A service, and the hostile producer that attacks it, if one does."""

    service: Service
    hostile: HostileProducer | None

    def take(self, phase: Phase, plan: Plan, honest: Batch | None) -> BatchReport | None:
        """Deliver the next batch of the phase; None when there is none for this service."""
        if honest is not None:
            return self.service.settled(self.service.honest.send(honest.x, honest.y, wait=WAIT_SECONDS))
        if self.hostile is None:
            return None
        if phase is Phase.TRIGGER:
            return self.service.settled(self.hostile.strike(wait=WAIT_SECONDS))
        return self.service.settled(self.hostile.prepare(plan.batch, wait=WAIT_SECONDS))


def _play(plan: Plan, seed: int, base: Path, screen: Screen) -> Record:
    began = time.monotonic()
    screen.say(f"burning in on {plan.burn_in} digits")
    given = story.parts(plan, seed)
    engine = story.trained(plan, given, seed, at=time.time())
    screen.say("starting three services: guarded, unguarded, and a reference that is never attacked")
    with running(engine, MODES, base) as services:
        seats = [_Seat(service, _hostile(service, plan, given, seed)) for service in services]
        start = _accuracies(seats, given)
        moments: list[Moment] = []
        phases = list(plan.phases(len(given.stream)))
        honest = iter(given.stream)
        for phase in phases:
            batch = None if phase.hostile else next(honest)
            reports = [seat.take(phase, plan, batch) for seat in seats]
            guard = _sighting(seats[0].service, reports[0])
            moments.append(Moment(phase, _accuracies(seats, given), guard))
            screen.show(start, moments, len(phases))
    return Record(seed, start, tuple(moments), time.monotonic() - began, _setup(plan))


def _hostile(service: Service, plan: Plan, given: Parts, seed: int) -> HostileProducer | None:
    if service.name == REFERENCE:
        return None
    return HostileProducer(
        service.hostile,
        service.observer,
        given.attacker,
        threat=ThreatModel(epsilon=plan.epsilon),
        validation=plan.validation,
        strike=plan.trigger,
        seed=seed,
    )


def _accuracies(seats: Sequence[_Seat], given: Parts) -> dict[str, float]:
    return {seat.service.name: seat.service.accuracy(given.test.x, given.test.y) for seat in seats}


def _sighting(service: Service, report: BatchReport | None) -> Sighting:
    assert report is not None
    gauges, model = service.gauges(), service.model()
    found = (verdict.discrepancy for verdict in report.verdicts or ())
    return Sighting(
        accepted=report.counts.accept,
        corrected=report.counts.correct,
        held=report.counts.quarantine,
        discrepancies=tuple(discrepancy for discrepancy in found if discrepancy is not None),
        discrepancy=gauges.get("weir_batch_discrepancy"),
        discrepancy_threshold=gauges.get("weir_discrepancy_threshold"),
        score=gauges.get("weir_step_score"),
        score_threshold=gauges.get("weir_step_score_threshold"),
        progressive_accuracy=model.progressive_accuracy,
        step=model.step,
    )


def _setup(plan: Plan) -> dict[str, Any]:
    return {
        "weir": weir.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "plan": asdict(plan),
    }


def _keep_logs(base: Path, out: Path) -> None:
    for log in base.glob("*.log"):
        shutil.copy(log, out / f"demo-{log.name}")


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that no process and no folder is left behind."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
