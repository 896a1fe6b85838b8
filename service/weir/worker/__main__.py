"""``python -m weir.worker``: ``weir serve`` whose learner is shared out among the processes that torchrun starts."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from weir import config, logs
from weir.config import Settings
from weir.core.group import Group
from weir.errors import InvalidSetting, WeirError
from weir.redteam import Cocktail
from weir.serving import Served, learner, learning, whole
from weir.trainer.conductor import conductors, dismiss, follow
from weir.worker.rendezvous import met

logger = logging.getLogger("weir.worker")
PATIENCE = timedelta(minutes=5)  # for a rank at work, before it counts as lost
FOR_GOOD = timedelta(days=3650)  # for rank 0 to have something to do

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def worker(
    host: Annotated[str | None, typer.Option(help="Address to listen on (WEIR_HOST, else 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (WEIR_PORT, else 8790).")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder (WEIR_DATA, else weir-data).")] = None,
) -> None:
    """weir serve, in the role all or learner, whose work is shared out among many processes: one for each GPU.

    torchrun starts them, and all of them anew when one of them ends. Rank 0 is an ordinary weir serve: it alone uses
    the data folder, the port and Redis, and deals out the samples of each step. Every rank guards and differentiates
    its own; verdicts and weights are those of one process, but for the rounding of sums. On SIGTERM the group learns
    what was taken, writes a checkpoint and ends. Started without torchrun it is a group of one.

    With WEIR_DEVICE=cuda every rank takes the GPU of its local number, and ranks speak by nccl, else by gloo. All need
    the same settings and the same kind of device. Batch norm must be frozen (WEIR_LEARNER_FREEZE_NORM) or absent.

    \b
    Examples:
      torchrun --standalone --nproc-per-node 2 --max-restarts 10 -m weir.worker
      WEIR_DEVICE=cuda torchrun --standalone --nproc-per-node 8 --max-restarts 10 -m weir.worker --port 9000
      torchrun --nnodes 4 --nproc-per-node 8 --max-restarts 10 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
        -m weir.worker
    """
    given = {"host": host, "port": port, "data": data}
    settings = config.load(**{name: value for name, value in given.items() if value is not None})
    logs.configure(settings.log_level, settings.log_format)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        learning.serve(settings, _running(settings))
        return
    with joined(settings.engine().device) as group:
        group.meet(f"these settings of the engine: {settings.engine()!r}")
        if group.rank:
            _follow(group, settings)
        else:
            _lead(group, settings)


def main() -> None:
    """The command; what goes wrong is told in a line."""
    try:
        app(prog_name="python -m weir.worker")
    except WeirError as error:
        typer.echo(f"weir: {error}", err=True)
        raise SystemExit(1) from None


def _lead(group: Group, settings: Settings) -> None:
    """Serve as rank 0; without a whole group that comes to its end, as on a signal."""

    def lost() -> None:
        logger.error("a rank of the group is lost: this process ends, and torchrun starts all of them anew")
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        own_engine = conductors(group, settings.engine(), Cocktail(), lost=lost)
        learning.serve(settings, partial(_running(settings), own_engine=own_engine))
    finally:
        dismiss(group)


def _running(settings: Settings) -> Callable[..., AbstractContextManager[Served]]:
    if settings.role == "api":
        raise InvalidSetting("WEIR_ROLE", settings.role, "all or learner: replicas are weir serve --role api")
    return learner.running if settings.role == "learner" else whole.running


def _follow(group: Group, settings: Settings) -> None:
    """Do what rank 0 says; a signal goes to every process of the group, and it is for rank 0 to end it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(settings.threads)
    logger.info("rank %d of %d follows", group.rank, group.size)
    follow(group, settings.engine(), Cocktail())
    logger.info("rank %d ends", group.rank)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun's environment tells of; raises GroupLost when not all come, InvalidSetting."""
    if device not in ("cpu", "cuda"):
        raise InvalidSetting("WEIR_DEVICE", device, "cpu or cuda: each rank takes the GPU of its local number")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=met(store, rank, size),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    group = Group(dist.new_group(backend="gloo", timeout=FOR_GOOD), device=device)
    try:
        yield group
    finally:
        if not group.lost:  # what is left of it could not be taken down in order
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
