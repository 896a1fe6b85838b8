"""What a store owes that replicas hear the learner through: the newest model and word, whole, and news at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import pytest

from weir.stores.base import Publications, PublishedModel, Stores

if TYPE_CHECKING:
    from tests.contracts.conftest import Reopen

PUBLISHING = [pytest.param("redis", marks=pytest.mark.needs("redis-server"))]  # those that processes can share
DIGEST = "ab" * 32

pytestmark = pytest.mark.parametrize("backend", PUBLISHING, indirect=True)


@pytest.fixture
def publications(reopen: Reopen) -> Publications:
    return published(reopen)


def published(reopen: Reopen) -> Publications:
    found = cast(Stores, reopen()).publications
    assert found is not None
    return found


def test_before_the_first_publication_there_is_nothing(publications: Publications) -> None:
    assert publications.newest() is None
    assert publications.heard() is None
    assert not publications.wait(0, 0.0)
    assert publications.say(b"no model yet") == 0


def test_the_newest_model_takes_the_place_of_the_one_before(publications: Publications) -> None:
    first = publications.put(b"\x00one\xff", DIGEST)
    assert publications.newest() == PublishedModel(first, b"\x00one\xff", DIGEST)
    second = publications.put(b"two", "cd" * 32)
    assert second > first
    assert publications.newest() == PublishedModel(second, b"two", "cd" * 32)


def test_a_word_is_heard_with_its_age_and_the_version_beside_it(publications: Publications) -> None:
    version = publications.put(b"model", DIGEST)
    assert publications.say(b"first") == version
    first = publications.heard()
    publications.say(b"second")
    second = publications.heard()
    assert first is not None
    assert second is not None
    assert (first.word, second.word, second.version) == (b"first", b"second", version)
    assert second.mark != first.mark
    assert 0.0 <= second.age <= second.version_age < 60.0


def test_waiting_ends_with_the_next_word(publications: Publications) -> None:
    publications.say(b"before")
    heard = publications.heard()
    assert heard is not None
    assert not publications.wait(heard.mark, 0.01)
    timer = threading.Timer(0.05, publications.say, [b"after"])
    timer.start()
    assert publications.wait(heard.mark, 20.0)
    timer.join()
    assert publications.wait(0, 0.0)  # whoever has heard nothing yet waits for nothing


def test_what_was_published_outlives_the_process_that_did(publications: Publications, reopen: Reopen) -> None:
    version = publications.put(b"model", DIGEST)
    publications.say(b"word")
    again = published(reopen)
    assert again.newest() == PublishedModel(version, b"model", DIGEST)
    heard = again.heard()
    assert heard is not None
    assert heard.word == b"word"
