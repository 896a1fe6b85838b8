"""The twin test: the same stream over HTTP and through the bare engine ends in the same weights, bit for bit."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.api.conftest import CONFIG, RECIPE, STEP_SIZE, Open, samples

from weir.client import Client
from weir.core import Engine
from weir.types import SampleRef, Step, Verdict


def test_a_stream_over_http_and_through_the_engine_give_equal_weights(
    open_house: Open, tmp_path: Path, trained: Engine
) -> None:
    x, y = samples(8 * STEP_SIZE, seed=77)
    x[5] = 1.0  # something for the guard to do
    sizes = [1, 7, STEP_SIZE, 3 * STEP_SIZE, 3 * STEP_SIZE - 3, 3]
    with open_house(tmp_path, started=False) as house:  # so that no delivery is cut before the next one is there
        alice, reader = (Client(house.address, house.keys[name]) for name in ("alice", "reader"))
        with alice, reader:
            receipts = [alice.send(*part) for part in zip(torch.split(x, sizes), torch.split(y, sizes), strict=True)]
            house.trainer.start()
            alice.send(x[:STEP_SIZE], y[:STEP_SIZE], wait=20)  # a ninth step: when it is published so are the others
            over_http, metadata = reader.weights()
            reports = [reader.batch(receipt.id) for receipt in receipts]
    x, y = torch.cat([x, x[:STEP_SIZE]]), torch.cat([y, y[:STEP_SIZE]])
    twin = Engine(RECIPE, CONFIG)
    twin.load_state(trained.state())
    refs = [SampleRef(str(row), 0) for row in range(len(y))]
    verdicts = []
    for number, rows in enumerate(torch.split(torch.arange(len(y)), STEP_SIZE), start=1):
        mine = [refs[row] for row in rows.tolist()]
        step = Step(number, x[rows], y[rows], mine, ["alice"] * len(rows))
        verdicts += [verdict.verdict for verdict in twin.process(step).verdicts]
    assert int(metadata["step"]) == 9
    assert {name: t.numpy().tobytes() for name, t in over_http.items()} == {
        name: t.numpy().tobytes() for name, t in twin.weights().items()
    }
    assert [Verdict(sample.verdict) for report in reports for sample in report.verdicts or ()] == verdicts[
        : 8 * STEP_SIZE
    ]
    assert set(verdicts) > {Verdict.ACCEPT}
