"""What a replica takes over from the learner: sound models, whole, and where it stands; and how it counts staleness."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.serving.conftest import INFO, Scripted, X, published, until

from weir.errors import NotReady
from weir.serving import word
from weir.serving.publisher import Publisher
from weir.serving.subscriber import Subscriber
from weir.serving.word import Word
from weir.stores.base import Publications

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.usefixtures("quick")]


@pytest.fixture
def subscriber(publications: Publications) -> Iterator[Subscriber]:
    with Subscriber(publications, device="cpu") as following:
        yield following


def publish(publications: Publications, step: int, *, current: bool = True) -> None:
    """A model and a word, as the learner gives them."""
    publications.put(*word.pack(published(step)))
    say(publications, current=current)


def say(publications: Publications, *, current: bool = True, position: int = 0) -> None:
    status = replace(Scripted().status, position=position)
    publications.say(word.written(Word(status, (INFO,), "http://learner:8790", current)))


def steps(subscriber: Subscriber) -> int | None:
    return None if subscriber.publication is None else subscriber.publication.step


def stale(subscriber: Subscriber) -> float:
    assert subscriber.staleness is not None
    return subscriber.staleness


def test_before_the_first_publication_nothing_is_known(subscriber: Subscriber) -> None:
    assert (subscriber.publication, subscriber.staleness, subscriber.learner_address) == (None, None, None)
    assert not subscriber.status.alive
    with pytest.raises(NotReady, match="nothing was heard"):
        subscriber.checkpoints()


def test_a_replica_predicts_as_the_learner_does(publications: Publications, subscriber: Subscriber) -> None:
    learner = Scripted()
    with Publisher(learner, publications, every=0, address="http://learner:8790"):
        for step in (1, 2):
            learner.learn(step)
            until(lambda step=step: steps(subscriber) == step, "the model")  # type: ignore[misc]
            assert subscriber.publication is not None
            assert subscriber.publication.recipe == learner.publication.recipe
            assert subscriber.publication.predict(X).equal(learner.publication.predict(X))
        until(lambda: subscriber.status == learner.status, "the status")
    assert subscriber.learner_address == "http://learner:8790"
    assert subscriber.checkpoints() == (INFO,)


def test_a_damaged_model_is_refused_and_the_one_before_stays(
    publications: Publications, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    publish(publications, 1)
    until(lambda: steps(subscriber) == 1, "the first model")
    payload, digest = word.pack(published(2))
    torn = payload[:-1] + bytes([payload[-1] ^ 1])
    nonsense = b"not a model"
    for damaged, claimed in ((torn, digest), (nonsense, hashlib.sha256(nonsense).hexdigest())):
        caplog.clear()
        publications.put(damaged, claimed)
        say(publications)
        until(lambda: "a published model is refused" in caplog.text, "it is refused aloud")
        assert steps(subscriber) == 1
    until(lambda: stale(subscriber) > 0.2, "it ages")
    say(publications, position=77)  # that the learner stands by a model that is refused makes this one no newer
    until(lambda: subscriber.status.position == 77, "the word is heard")
    assert stale(subscriber) > 0.2
    publish(publications, 3)
    until(lambda: steps(subscriber) == 3, "the next sound model")


def test_a_model_is_as_stale_as_the_time_since_it_was_the_newest(
    publications: Publications, subscriber: Subscriber
) -> None:
    publish(publications, 1, current=False)
    until(lambda: steps(subscriber) == 1, "the model")
    until(lambda: stale(subscriber) > 0.2, "the learner has a newer one: it ages")
    say(publications, current=False, position=77)
    until(lambda: subscriber.status.position == 77, "the word that it is still so")
    assert stale(subscriber) > 0.2
    say(publications)
    until(lambda: stale(subscriber) < 0.2, "it is the newest again")


def test_a_replica_takes_in_the_next_word_in_its_time_and_at_once_where_somebody_waits(
    publications: Publications, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weir.serving.subscriber.BREATH_SECONDS", 60.0)
    with Subscriber(publications, device="cpu") as at_rest, Subscriber(publications, device="cpu") as awaited:

        def reaches(position: int) -> bool:
            awaited.attend()
            return awaited.status.position == position

        say(publications, position=1)
        until(lambda: at_rest.status.alive and awaited.status.alive, "the first word")
        for position in range(2, 6):
            say(publications, position=position)
            until(lambda position=position: reaches(position), "the word, long before its time")  # type: ignore[misc]
        assert (at_rest.status.position, awaited.status.position) == (1, 5)


def test_a_learner_that_falls_silent_counts_as_gone_until_it_speaks(
    publications: Publications, subscriber: Subscriber
) -> None:
    publish(publications, 1)
    until(lambda: subscriber.status.alive, "it is heard")
    until(lambda: not subscriber.status.alive, "it is given up")
    assert "nothing was heard of the learner for" in str(subscriber.status.failure)
    assert steps(subscriber) == 1
    say(publications)
    until(lambda: subscriber.status.alive, "it is back")
