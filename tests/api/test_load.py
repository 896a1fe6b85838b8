"""Many at once: those that wait, for the learner or for the model, never keep the others waiting."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import httpx
import pytest
from tests.api.conftest import House, Open, batch
from torch import Tensor

from weir.api.service import Limits
from weir.codec import SAFETENSORS, encode

CROWD = 100
OTHERS = 8


def crowded(
    house: House,
    request: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]],
    arrived: Callable[[], bool],
    then: Callable[[], None] = lambda: None,
) -> list[int]:
    """Make a hundred requests that wait and, once they have ``arrived``, a few others; then let the crowd go.

    Returns how many still waited when each of the others had its answer.
    """
    seen: list[int] = []
    waiting = 0

    async def wait(client: httpx.AsyncClient) -> None:
        nonlocal waiting
        waiting += 1
        answer = await request(client)
        waiting -= 1
        assert answer.is_success, answer.text

    async def everyone() -> None:
        headers = {"Authorization": f"Bearer {house.keys['admin']}", "Content-Type": SAFETENSORS}
        pool = httpx.AsyncHTTPTransport(verify=False, limits=httpx.Limits(max_connections=None))
        async with (
            httpx.AsyncClient(base_url=house.address, headers=headers, transport=pool, timeout=60) as client,
            anyio.create_task_group() as group,
        ):
            for _ in range(CROWD):
                group.start_soon(wait, client)
            while not arrived():
                await anyio.sleep(0.01)  # and not again at once: the server is in this process
            for _ in range(OTHERS):
                assert (await client.get("/v1/batches/b_0")).status_code == 404
                seen.append(waiting)
            then()

    anyio.run(everyone)
    return seen


def test_a_hundred_wait_for_the_learner_on_two_threads(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, started=False, limits=Limits(waiters=2)) as house:
        seen = crowded(
            house,
            lambda client: client.post("/v1/batches?wait=3", content=encode(batch())),
            arrived=lambda: house.stores.log.tail() == CROWD,
        )
    assert seen == [CROWD] * OTHERS


def test_all_that_wait_hear_when_the_learner_has_decided(open_house: Open, tmp_path: Path) -> None:
    with open_house(tmp_path, limits=Limits(waiters=2)) as house:
        house.go_on.clear()
        crowded(
            house,
            lambda client: client.post("/v1/batches?wait=50", content=encode(batch())),
            arrived=lambda: house.stores.log.tail() == CROWD,
            then=house.go_on.set,
        )
        assert house.stores.log.backlog().batches == 0


def test_waiting_takes_turns(open_house: Open, tmp_path: Path) -> None:
    """One thread, held by a request whose batch is not decided: another's, long decided, is answered all the same."""
    with open_house(tmp_path, limits=Limits(waiters=1)) as house:
        decided = house.send(batch(), **{"Idempotency-Key": "one"})
        house.stall()
        tail = house.stores.log.tail()
        with ThreadPoolExecutor() as pool:
            alice = house.caller("alice", **{"Content-Type": SAFETENSORS})
            stuck = pool.submit(alice.post, "/v1/batches?wait=6", content=encode(batch(seed=2)))
            assert house.stores.log.wait(tail, timeout=60)
            assert house.send(batch(), **{"Idempotency-Key": "one"}) == decided
            assert not stuck.done()
            house.go_on.set()
            assert stuck.result().status_code == 200


def test_predictions_that_take_long_keep_nobody_else_waiting(
    service_app: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    publication, begun, go_on = service_app.trainer.publication, threading.Event(), threading.Event()

    def slowly(x: Tensor) -> Tensor:
        begun.set()
        assert go_on.wait(30)
        return publication.predict(x)

    monkeypatch.setattr(service_app.trainer, "publication", dataclasses.replace(publication, predict=slowly))
    seen = crowded(
        service_app,
        lambda client: client.post(
            "/v1/predict", json={"x": [[0, 0, 0, 0]]}, headers={"Content-Type": "application/json"}
        ),
        arrived=begun.is_set,
        then=go_on.set,
    )
    assert seen == [CROWD] * OTHERS
