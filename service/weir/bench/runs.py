"""A file of rows, one JSON object a run: appended to, never rewritten, and gone on with after an interruption."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from weir.bench.harness import Cell, Harness, key_of


def run(
    cells: Sequence[Cell],
    out: Path,
    harness: Harness,
    *,
    jobs: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Append the row of every cell that ``out`` does not hold yet, as soon as it is known.

    With several ``jobs`` as many processes share the streams, and rows come in no fixed order. ``progress(count)``
    says that so many more cells are done.
    """
    done = {key_of(row) for row in rows([out])} if out.exists() else set()
    out.parent.mkdir(parents=True, exist_ok=True)
    wanted = [cell for cell in cells if cell.key not in done]
    progress(len(cells) - len(wanted))
    for row in _made(wanted, harness, jobs):
        _append(out, json.dumps(row))
        progress(1)


def rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """All rows of the files, in order; a last line that a crash cut short is left out."""
    for file in files:
        for line in file.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def _made(cells: Sequence[Cell], harness: Harness, jobs: int) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        yield from map(harness.run, cells)
        return
    streams = [list(group) for _, group in groupby(cells, key=lambda cell: cell.stream)]
    with _processes(jobs) as pool:
        for found in pool.imap_unordered(_rows, [(Harness(harness.data, harness.cache), group) for group in streams]):
            yield from found


@contextmanager
def _processes(jobs: int) -> Iterator[Any]:
    """Processes that leave an interruption to this one, which ends them."""
    context = multiprocessing.get_context("spawn")  # forked threads of torch would hang
    with context.Pool(jobs, initializer=_prepare, initargs=(torch.get_num_threads(),)) as pool:
        yield pool


def _prepare(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _rows(work: tuple[Harness, list[Cell]]) -> list[dict[str, Any]]:
    harness, cells = work
    return [harness.run(cell) for cell in cells]


def _append(out: Path, row: str) -> None:
    torn = out.exists() and not out.read_bytes().endswith(b"\n")  # by a crash; an empty line does no harm
    with out.open("ab", buffering=0) as file:  # one write: who interrupts finds a whole row or none
        file.write(("\n" * torn + row + "\n").encode())
