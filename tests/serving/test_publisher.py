"""What the learner publishes: the newest model in its turn, the last one in any case, and a word with all news."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.redis_server import DURABLE, RedisServer, running
from tests.serving.conftest import INFO, Scripted, heard, published, stored, until

from weir.serving.publisher import Publisher
from weir.stores.base import Publications
from weir.stores.redis import Redis

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.usefixtures("quick")]
ADDRESS = "http://learner:8790"


def said(publications: Publications, *, step: int, current: bool) -> bool:
    found = heard(publications)
    return found is not None and (found.status.step, found.current) == (step, current)


def test_a_model_waits_for_its_turn_and_the_newest_goes_first(publications: Publications) -> None:
    learner = Scripted()
    with Publisher(learner, publications, every=3600, address=ADDRESS):
        until(lambda: said(publications, step=1, current=True), "the first model at once")
        learner.learn(2)
        learner.learn(3)
        until(lambda: said(publications, step=3, current=False), "the word goes before the model")
        assert stored(publications) == 1
    assert stored(publications) == 3
    assert said(publications, step=3, current=True)


def test_the_last_model_before_idleness_is_published_by_itself(publications: Publications) -> None:
    learner = Scripted()
    with Publisher(learner, publications, every=0.2, address=ADDRESS):
        until(lambda: stored(publications) == 1, "the first model")
        for step in range(2, 6):
            learner.learn(step)
        until(lambda: stored(publications) == 5, "the last model")


def test_a_word_tells_where_the_learner_stands_and_is_found(publications: Publications) -> None:
    learner = Scripted()
    with Publisher(learner, publications, every=0, address=ADDRESS):
        until(lambda: said(publications, step=1, current=True), "a word")
        found = heard(publications)
        assert found is not None
        assert (found.status, found.checkpoints, found.address) == (learner.status, (INFO,), ADDRESS)
        learner.status = replace(learner.status, alive=False)
    found = heard(publications)
    assert found is not None
    assert not found.status.alive


def test_a_learner_without_news_is_heard_all_the_same(publications: Publications) -> None:
    with Publisher(Scripted(), publications, every=0, address=ADDRESS):
        until(lambda: publications.heard(), "a word")
        first = publications.heard()
        assert first is not None
        assert publications.wait(first.mark, 20.0)


def test_the_same_weights_are_not_sent_twice(publications: Publications) -> None:
    learner = Scripted()
    with Publisher(learner, publications, every=0, address=ADDRESS):
        until(lambda: said(publications, step=1, current=True), "the first model")
        first = publications.newest()
        learner.publication = published(1)
        learner.status = replace(learner.status, position=99)
        learner.news.ring()
        until(lambda: (found := heard(publications)) and found.status.position == 99, "the next word")
        until(lambda: said(publications, step=1, current=True), "the model is known")
    assert publications.newest() == first


def test_what_a_server_lost_is_published_again() -> None:
    with (
        running() as server,
        Redis(server.url) as stores,
        stores.owned(),
        Publisher(Scripted(), stores.publications, every=3600, address=ADDRESS),
    ):
        until(lambda: said(stores.publications, step=1, current=True), "the first model")
        server.kill()
        server.start()
        until(lambda: stored(stores.publications) == 1, "the same model again")


def test_a_learner_that_lost_its_log_publishes_nothing_more(
    stores: Redis, redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    learner = Scripted()
    with Publisher(learner, stores.publications, every=0, address=ADDRESS):
        until(lambda: stored(stores.publications) == 1, "the first model")
        with redis_server.client() as client:
            client.delete(f"{{{prefix}}}:lease")
        with Redis(redis_server.url, prefix=prefix) as heir, heir.owned():
            learner.learn(2)
            until(lambda: "another learner owns the log" in caplog.text, "it finds itself fenced")
            assert stored(heir.publications) == 1


def test_a_store_without_room_for_a_model_still_takes_the_word() -> None:
    with running({**DURABLE, "maxmemory": "100mb"}) as server, Redis(server.url) as stores, stores.owned():
        learner = Scripted()
        with Publisher(learner, stores.publications, every=0, address=ADDRESS):
            until(lambda: said(stores.publications, step=1, current=True), "the first model")
            with server.client() as client:
                client.config_set("maxmemory", "1mb")
                learner.learn(2)
                until(lambda: said(stores.publications, step=2, current=False), "the word")
                assert stored(stores.publications) == 1
                client.config_set("maxmemory", "100mb")
            until(lambda: said(stores.publications, step=2, current=True), "the model")
