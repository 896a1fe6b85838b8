"""``weir redteam``: an attack of one's own against one's own service."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.cli.output import bar, card, remark
from weir.cli.remote import DEFAULT_URL, AsJson, connect, values

if TYPE_CHECKING:
    from weir.client import Client
    from weir.redteam.campaign import Campaign

NAME = "mallory"
INTERRUPTED = 130
PATIENCE_SECONDS = 60.0  # a log that an attack has filled is no reason to give up


def redteam(
    attack: Annotated[str, typer.Argument(help="One of the attacks above.")],
    url: Annotated[
        str, typer.Option("--to", "--url", envvar="WEIR_URL", help="Where the service answers.")
    ] = DEFAULT_URL,
    key_files: Annotated[
        list[Path] | None,
        typer.Option("--key-file", help="File with a producer's API key (else WEIR_KEY); repeat for more producers."),
    ] = None,
    spy_key_file: Annotated[
        Path | None, typer.Option(help="File with a reader's API key, to see weights and verdicts (else the sender's).")
    ] = None,
    data: Annotated[
        str, typer.Option(help="The attacker's samples: digits, breast_cancer, or a .parquet or .npz file.")
    ] = "digits",
    batches: Annotated[int, typer.Option(min=1, help="Batches to send.")] = 20,
    size: Annotated[int, typer.Option(min=1, help="Samples in a batch; a trigger batch has four times as many.")] = 25,
    epsilon: Annotated[
        float | None, typer.Option(help="How far a number of x may move, in the model's units; else the attack's own.")
    ] = None,
    fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Hostile share of each batch; else the attack's own.")
    ] = None,
    penalty: Annotated[float, typer.Option(min=0, help="adaptive: what suspicion costs the attacker.")] = 1.0,
    producers: Annotated[
        int | None, typer.Option(min=1, help="Producers that send in turn; with keys one for each key.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the verdicts of a batch.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another attack.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Attack a running service of yours over HTTP, and see what its guard lets through.

    \b
    Attacks that read the model's weights before each batch:
      accumulative         prepares quietly, then strikes (Pang et al., 2021)
      adaptive             the same, knowing the guard: all but its probe set
      trigger              trigger batches alone, each crafted anew
      ratchet              a flood of mildly moved samples, each chosen to pass
    Attacks that know nothing:
      label_flip           a share of random wrong labels
      label_flip_pairwise  a share of labels moved to the next class
      backdoor             a patch that means class 0 (Gu et al., 2017)
    Honest trouble, that a guard should bear with:
      noisy_labels         honest: a few labels got wrong by mistake
      drift                honest: images turn and fade more with every batch
      skewed               honest: producers that see one or two classes each

    A quarter of --data is held out: accuracy on it is asked for, before and after. What the sender may not see stays -.

    No key shows the guard's historical weights: adaptive takes those that it finds at its start for them.

    \b
    Examples:
      weir redteam accumulative --to http://127.0.0.1:8790 --data rest.npz
      weir redteam label_flip --data rest.npz --fraction 0.4 --producers 3
      weir redteam adaptive --penalty 0.1 --key-file m.key --spy-key-file r.key
    """
    from weir import datasets
    from weir.redteam.campaign import Campaign, Orders

    orders = Orders(
        attack=attack,
        batches=batches,
        size=size,
        epsilon=epsilon,
        fraction=fraction,
        penalty=penalty,
        wait=wait,
        seed=seed,
    )
    samples = datasets.load(data)
    with ExitStack() as stack:
        senders = [stack.enter_context(client) for client in _senders(url, key_files or (), producers)]
        spy = _reader(stack.enter_context(connect(url, spy_key_file)) if spy_key_file else senders[0])
        campaign = Campaign(orders, samples, senders, spy)
        remark(f"{attack}: this sends hostile samples to {url}; its model learns what its guard lets through.")
        interrupted = _sent(campaign)
        card({"attack": attack, **values(campaign.tally())}, as_json=as_json)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _sent(campaign: Campaign) -> bool:
    """Send the campaign's batches; whether Ctrl-C cut it short."""
    from weir.errors import WeirError

    try:
        with bar("sent", len(campaign)) as advance:
            for _ in campaign.run():
                advance(1)
    except KeyboardInterrupt:
        remark("Stopped; this is what was sent until then.")
        return True
    except WeirError:
        remark(f"Failed after {campaign.sent} of {len(campaign)} batches.")
        raise
    return False


def _senders(url: str, key_files: Sequence[Path], producers: int | None) -> list[Client]:
    """A client per key; without keys one per name."""
    from weir.errors import InvalidSetting

    if key_files:
        if producers not in (None, len(key_files)):
            raise InvalidSetting("--producers", producers, f"{len(key_files)}, as many as there are --key-file")
        return [connect(url, file, patience=PATIENCE_SECONDS) for file in key_files]
    names = [NAME] if producers in (None, 1) else [f"{NAME}-{number}" for number in range(1, (producers or 1) + 1)]
    return [connect(url, None, producer=name, patience=PATIENCE_SECONDS) for name in names]


def _reader(client: Client) -> Client | None:
    """The client, if its key may see the model."""
    from weir.errors import Forbidden

    try:
        client.model()
    except Forbidden:
        return None
    return client
