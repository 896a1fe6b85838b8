"""The client's part for administrators: the model's life, its guard, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence

from weir import codec
from weir.client.answers import ModeReport, ProbeReport, Queued
from weir.client.arrays import Numbers, labels_of, samples_of
from weir.client.changes import CheckpointReport, CommandReport, ErasureReport, PublishReport, RollbackReport
from weir.client.connection import Connection, part
from weir.client.reading import read, read_page
from weir.types import Batch, GuardMode, ReplayReport, ReplayVerdicts

BINARY = {"Content-Type": codec.SAFETENSORS}


class Administration(Connection):
    """See ``Client``."""

    def command(self, id: str) -> CommandReport:
        """What became of a command that was still queued when it was answered."""
        return read(CommandReport, self._transport.ask("GET", f"/v1/commands/{part(id)}"))

    def checkpoints(self) -> tuple[CheckpointReport, ...]:
        """The checkpoints that can be restored, oldest first."""
        return read_page(CheckpointReport, self._transport.ask("GET", "/v1/checkpoints"))[0]

    def checkpoint(self, reason: str = "manual") -> CheckpointReport | Queued:
        """Save a checkpoint now, between two steps."""
        return self._command(CheckpointReport, "POST", "/v1/checkpoints", json={"reason": reason})

    def rollback(self, id: str) -> RollbackReport | Queued:
        """Restore the weights of a checkpoint; what the log brought since is not learned again."""
        return self._command(RollbackReport, "POST", "/v1/rollback", json={"checkpoint": id})

    def start_replay(
        self,
        checkpoint: str,
        *,
        producers: Sequence[str] = (),
        batches: Sequence[str] = (),
        samples: Sequence[str] = (),
        verdicts: ReplayVerdicts | str = ReplayVerdicts.RECORDED,
    ) -> ReplayReport:
        """Learn all that the log holds since a checkpoint once more, beside the model, without what is named."""
        left_out = {"producers": list(producers), "batches": list(batches), "samples": list(samples)}
        order = {"checkpoint": checkpoint, **left_out, "verdicts": verdicts}
        return read(ReplayReport, self._transport.ask("POST", "/v1/replay", json=order))

    def replays(self) -> tuple[ReplayReport, ...]:
        """The replays since the service started, oldest first."""
        return read_page(ReplayReport, self._transport.ask("GET", "/v1/replay"))[0]

    def replay(self, id: str) -> ReplayReport:
        """How far a replay is, and once it is done, how its result compares."""
        return read(ReplayReport, self._transport.ask("GET", f"/v1/replay/{part(id)}"))

    def cancel_replay(self, id: str) -> ReplayReport:
        """Stop a replay; its result is thrown away."""
        return read(ReplayReport, self._transport.ask("POST", f"/v1/replay/{part(id)}/cancel"))

    def publish_replay(self, id: str) -> PublishReport | Queued:
        """Put a replay's result in the model's place."""
        return self._command(PublishReport, "POST", f"/v1/replay/{part(id)}/publish")

    def erase(
        self,
        *,
        producer: str | None = None,
        batch: str | None = None,
        sample: str | None = None,
        dry_run: bool = True,
    ) -> ErasureReport | Queued:
        """Erase what exactly one of these left in log, quarantine and dead letters; a ``dry_run`` only counts it.

        Weights stay as they are: to take it out of them, replay without it.
        """
        target = {"producer": producer, "batch": batch, "sample": sample}
        order = {**{name: value for name, value in target.items() if value is not None}, "dry_run": dry_run}
        return self._command(ErasureReport, "POST", "/v1/erase", repeatable=dry_run, json=order)

    def probe(self) -> ProbeReport:
        """The probe set in words; raises NotFound when there is none."""
        return read(ProbeReport, self._transport.ask("GET", "/v1/probe"))

    def replace_probe(self, x: Numbers, y: Numbers) -> ProbeReport | Queued:
        """Replace the probe set by trusted samples that the model was never trained on."""
        body = codec.encode(Batch(samples_of(x), labels_of(y)))
        return self._command(ProbeReport, "PUT", "/v1/probe", content=body, headers=BINARY)

    def mode(self) -> ModeReport:
        """What the guard does with its evidence."""
        return read(ModeReport, self._transport.ask("GET", "/v1/mode"))

    def set_mode(self, mode: GuardMode | str) -> ModeReport | Queued:
        """Change what the guard does with its evidence."""
        return self._command(ModeReport, "PUT", "/v1/mode", json={"mode": mode})
