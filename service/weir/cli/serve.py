"""``weir serve``: the service in one process, or one of the processes that it is split into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    role: Annotated[
        str | None, typer.Option(help="What this process does (WEIR_ROLE, else all).", metavar="all|api|learner")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (WEIR_HOST, else 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (WEIR_PORT, else 8790).")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder (WEIR_DATA, else weir-data).")] = None,
) -> None:
    """Take batches, guard them, learn from them, answer predictions; until Ctrl-C or SIGTERM.

    Needs a model: see weir burnin. All other settings come from WEIR_ variables or weir.toml. On a signal it answers
    what was asked, learns what it has taken, writes a checkpoint and exits.

    One process does all of it, unless roles split it over the Redis of WEIR_REDIS_URL:

    \b
      all      everything (the default); never beside the other two
      learner  owns the data folder, learns, publishes the model; one of it
      api      takes batches, predicts with the published model and says how
               stale that is; any number, each without a data folder

    \b
    Examples:
      weir serve
      export WEIR_REDIS_URL=redis://127.0.0.1:6379/0
      weir serve --role learner --port 8791
      weir serve --role api
      WEIR_GUARD_SAMPLE_RATE=0.005 weir serve --port 9000
      weir keys add ops --role admin && weir serve --host 0.0.0.0
    """
    from weir import config, logs, serving

    given = {"role": role, "host": host, "port": port, "data": data}
    settings = config.load(**{name: value for name, value in given.items() if value is not None})
    logs.configure(settings.log_level, settings.log_format)
    serving.serve(settings)
