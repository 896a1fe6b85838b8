"""``weir replay``: the model as it would be without some of what it learned."""

from __future__ import annotations

from enum import StrEnum
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.cli.output import bar, card, document, remark, show
from weir.cli.remote import DEFAULT_URL, AsJson, KeyFile, Url, connect, report, values

if TYPE_CHECKING:
    from weir.client import Client
    from weir.types import ReplayReport

app = typer.Typer(no_args_is_help=True)

POLL_SECONDS = 0.5

Id = Annotated[str, typer.Argument(help="The replay's id, as `weir replay list` shows it.")]


class Publish(StrEnum):
    """What becomes of a replay's result."""

    NEVER = "never"
    IF_BETTER = "if-better"
    ALWAYS = "always"


class Verdicts(StrEnum):
    """Which verdicts a replay goes by; those of ``weir.types``, which takes a second to import."""

    RECORDED = "recorded"
    ANEW = "anew"


@app.callback(invoke_without_command=True)
def replay(
    context: typer.Context,
    start: Annotated[str | None, typer.Option("--from", help="Checkpoint to begin at.")] = None,
    without_producer: Annotated[list[str] | None, typer.Option(help="Leave out what this producer sent.")] = None,
    without_batch: Annotated[list[str] | None, typer.Option(help="Leave out this batch.")] = None,
    without_sample: Annotated[list[str] | None, typer.Option(help="Leave out this sample, BATCH:INDEX.")] = None,
    verdicts: Annotated[Verdicts, typer.Option(help="Go by the journal, or judge again.")] = Verdicts.RECORDED,
    publish: Annotated[Publish, typer.Option(help="Put the result in the model's place?")] = Publish.NEVER,
    detach: Annotated[bool, typer.Option("--detach", help="Begin it and do not wait for its end.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Learn the log again from a checkpoint, without some of it, and compare; Ctrl-C cancels.

    The service goes on learning meanwhile, and its model stays as it is until the result is published. What reviewers
    discarded is left out in any case.

    \b
    Examples:
      weir replay --from 00000004-1500 --without-producer sensor-7
      weir replay --from 00000004-1500 --without-batch b_3f2a9c --publish if-better
      weir replay list
      weir replay publish r_1700000000_1
    """
    if context.invoked_subcommand is not None:
        return None
    from weir.errors import InvalidInput

    if start is None:
        raise InvalidInput("--from", "nothing", "a checkpoint's id: weir checkpoints list shows which are replayable")
    if detach and publish is not Publish.NEVER:
        raise InvalidInput("--publish", publish, "never with --detach: publish it when it is done")
    with connect(url, key_file) as client:
        begun = client.start_replay(
            start,
            producers=without_producer or (),
            batches=without_batch or (),
            samples=without_sample or (),
            verdicts=verdicts.value,
        )
        if detach:
            remark(f"It runs. To see how far it is: weir replay list; to stop it: weir replay cancel {begun.id}")
            return _tell(begun, None, as_json)
        return _finish(client, _followed(client, begun), publish, as_json)


@app.command("list")
def list_replays(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """List the replays since the service started, oldest first."""
    with connect(url, key_file) as client:
        items = [_summary(found) for found in client.replays()]
    show(items, tuple(items[0]) if items else (), as_json=as_json, nothing="There was no replay yet.")


@app.command()
def cancel(id: Id, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Stop a replay and throw its result away."""
    with connect(url, key_file) as client:
        _tell(client.cancel_replay(id), None, as_json)


@app.command("publish")
def publish_replay(id: Id, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Put a replay's result in the model's place, after it has learned what came meanwhile.

    The state before it stays in the list of checkpoints: weir rollback undoes it.

    \b
    Example:
      weir replay publish r_1700000000_1
    """
    with connect(url, key_file) as client:
        report(client.publish_replay(id), as_json=as_json)


def _followed(client: Client, begun: ReplayReport) -> ReplayReport:
    """The replay when it has ended; interrupted, it is cancelled."""
    from weir.types import ReplayState

    current = begun
    try:
        with bar("replayed", begun.end - begun.start) as advance:
            while True:
                following = client.replay(begun.id)
                advance(following.position - current.position)
                current = following
                if current.state is not ReplayState.RUNNING:
                    return current
                sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        client.cancel_replay(begun.id)
        remark(f"Replay {begun.id} is cancelled; the model is as it was.")
        raise


def _finish(client: Client, done: ReplayReport, publish: Publish, as_json: bool) -> None:
    """Print how the result compares, and publish it if that is wanted; exits with 1 when there is none."""
    from weir.types import ReplayState

    if done.state is not ReplayState.DONE:
        remark(f"weir: replay {done.id} {done.state}: {done.error or 'somebody stopped it'}")
        raise typer.Exit(1)
    better = done.accuracy is not None and done.accuracy_now is not None and done.accuracy > done.accuracy_now
    wanted = publish is Publish.ALWAYS or (publish is Publish.IF_BETTER and better)
    _tell(done, client.publish_replay(done.id) if wanted else None, as_json)
    if publish is Publish.IF_BETTER and not better:
        remark("It is not better than the model, which stays as it is.")
    if not wanted:
        remark(f"To put it in the model's place: weir replay publish {done.id}")


def _tell(found: ReplayReport, published: Any, as_json: bool) -> None:
    """Print a replay, and what publishing it gave."""
    summary = _summary(found)
    if as_json:
        return document({**summary, "published": None if published is None else values(published)})
    card(summary, as_json=False)
    if published is not None:
        print()
        report(published, as_json=False)
    return None


def _summary(found: ReplayReport) -> dict[str, Any]:
    progress = 1.0 if found.end <= found.start else (found.position - found.start) / (found.end - found.start)
    return {
        "id": found.id,
        "state": found.state.value,
        "from": found.order.checkpoint,
        "progress": f"{progress:.0%}",
        "learned": found.learned,
        "held": found.held,
        "left_out": found.left_out,
        "accuracy": found.accuracy,
        "accuracy_now": found.accuracy_now,
        "by": found.by,
        "created_at": found.created_at,
        "error": found.error,
    }
