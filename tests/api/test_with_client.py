"""The Python client against the whole service: every route, and the refusals as they come back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch
from tests.api.conftest import RECIPE, STEP_SIZE, House, batch, dead_letter, samples

from weir.client import (
    BatchReceipt,
    BatchReport,
    Client,
    ErasureReport,
    HeldSample,
    PublishReport,
    Queued,
    ReviewReport,
)
from weir.errors import Conflict, Forbidden, InvalidBatch, InvalidInput, InvalidProbe, NotFound, Unauthenticated
from weir.stores.base import HeldState
from weir.types import GuardMode, Reason, ReplayState, Verdict


class Clients:
    """A client for each role."""

    def __init__(self, house: House, stack: ExitStack) -> None:
        names = ("alice", "reader", "reviewer", "admin")
        self.alice, self.reader, self.reviewer, self.admin = (
            stack.enter_context(Client(house.address, house.keys[name])) for name in names
        )


@pytest.fixture
def clients(service_app: House) -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(service_app, stack)


def eventually(look: Callable[[], bool]) -> bool:
    """Whether it comes to be so: what the journal has decided shows elsewhere a moment later."""
    deadline = time.monotonic() + 10
    while not look() and time.monotonic() < deadline:
        time.sleep(0.002)
    return look()


def held_one(clients: Clients) -> HeldSample:
    clients.alice.send(*samples_with_a_strange_one(), wait=20)
    assert eventually(lambda: any(clients.reviewer.quarantine()))
    return next(clients.reviewer.quarantine())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def samples_with_a_strange_one() -> tuple[torch.Tensor, torch.Tensor]:
    sent = batch(strange=1)
    return sent.x, sent.y


def test_what_is_sent_is_decided_and_followed(service_app: House, clients: Clients) -> None:
    sent = batch(strange=1)
    ids = [f"s{n}" for n in range(STEP_SIZE)]
    decided = clients.admin.send(sent.x, sent.y, ids, wait=20)
    assert isinstance(decided, BatchReport)
    assert (decided.counts.accept, decided.counts.quarantine) == (STEP_SIZE - 1, 1)
    assert decided.verdicts is not None
    assert [line.id for line in decided.verdicts] == ids
    assert decided.verdicts[0].verdict is Verdict.QUARANTINE
    assert clients.reader.batch(decided.id) == decided


def test_a_producer_gets_a_receipt_and_then_counts(clients: Clients) -> None:
    sent = batch()
    receipt = clients.alice.send(sent.x.numpy(), sent.y.tolist())
    assert receipt == BatchReceipt(receipt.id, "queued", STEP_SIZE, "durable")
    report = clients.alice.batch(receipt.id)
    assert (report.producer, report.samples, report.verdicts) == ("alice", STEP_SIZE, None)


def test_one_key_takes_one_batch(service_app: House, clients: Clients) -> None:
    sent = batch()
    first, second = (clients.alice.send(sent.x, sent.y, idempotency_key="k") for _ in range(2))
    assert first.id == second.id
    other = batch(seed=2)
    with pytest.raises(InvalidInput) as caught:
        clients.alice.send(other.x, other.y, idempotency_key="k")
    assert caught.value.field == "Idempotency-Key"


def test_predictions_are_those_of_the_published_model(service_app: House, clients: Clients) -> None:
    x, _ = samples(9, seed=3)
    said = clients.reader.predict(x)
    published = service_app.trainer.publication
    assert said.step == published.step
    assert torch.equal(said.logits, published.predict(x))
    assert torch.equal(said.classes, said.logits.argmax(1))
    assert torch.allclose(said.probabilities.sum(1), torch.ones(9))


def test_weights_are_those_of_the_published_model(service_app: House, clients: Clients) -> None:
    tensors, metadata = clients.reader.weights()
    published = service_app.trainer.publication
    assert metadata["step"] == str(published.step)
    assert tensors.keys() == published.weights.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in published.weights.items())


def test_the_model_says_where_it_stands(clients: Clients) -> None:
    model = clients.reader.model()
    assert (model.mode, model.armed, model.alive) == (GuardMode.WEIR, True, True)
    assert model.recipe is not None
    assert (model.recipe.model, model.recipe.inputs.shape) == (RECIPE.model, RECIPE.inputs.shape)


def test_a_held_sample_is_reviewed(clients: Clients) -> None:
    x, y = samples_with_a_strange_one()
    held = held_one(clients)
    assert (held.index, held.label, held.reason, held.producer) == (0, int(y[0]), Reason.SAMPLE, "alice")
    assert torch.equal(clients.reviewer.held(held.id).x, x[0])
    released = clients.reviewer.release(held.id, label=0, note="mislabelled")
    assert not isinstance(released, Queued)
    assert released.state is HeldState.RELEASED
    assert eventually(lambda: clients.reviewer.held(held.id).state is HeldState.RELEASED)
    after = clients.reviewer.held(held.id)
    assert (after.relabel, after.resolved_by, after.note) == (0, "reviewer", "mislabelled")
    with pytest.raises(Conflict):
        clients.reviewer.discard(held.id)


def test_a_held_sample_is_discarded(clients: Clients) -> None:
    held = held_one(clients)
    assert clients.reviewer.discard(held.id, note="noise").state is HeldState.DISCARDED
    assert list(clients.reviewer.quarantine(state=HeldState.HELD)) == []


def test_the_quarantine_is_walked_page_by_page(clients: Clients) -> None:
    for seed in (1, 2, 3):
        sent = batch(strange=1, seed=seed)
        clients.alice.send(sent.x, sent.y, wait=20)
    assert eventually(lambda: len(list(clients.reader.quarantine())) == 3)
    whole = [held.id for held in clients.reader.quarantine()]
    assert [held.id for held in clients.reader.quarantine(page_size=1)] == whole
    assert list(clients.reader.quarantine(producer="bob")) == []


def test_a_checkpoint_is_saved_and_restored(clients: Clients) -> None:
    saved = clients.admin.checkpoint("before the stream")
    assert not isinstance(saved, Queued)
    assert clients.reader.checkpoints()[-1] == saved
    before = clients.reader.weights()[0]
    sent = batch()
    clients.alice.send(sent.x, sent.y, wait=20)
    assert eventually(lambda: not same(clients.reader.weights()[0], before))
    rolled = clients.admin.rollback(saved.id)
    assert not isinstance(rolled, Queued)
    assert rolled.restored == saved.id
    assert eventually(lambda: same(clients.reader.weights()[0], before))
    with pytest.raises(NotFound):
        clients.admin.rollback("none")


def test_the_probe_set_is_replaced(clients: Clients) -> None:
    before = clients.reader.probe()
    replaced = clients.admin.replace_probe(*samples(150, seed=12))
    assert not isinstance(replaced, Queued)
    assert replaced.size == 150
    assert replaced.version != before.version
    assert eventually(lambda: clients.reader.probe().version == replaced.version)
    with pytest.raises(InvalidProbe):
        clients.admin.replace_probe(*samples(3, seed=12))


def test_the_mode_is_changed(clients: Clients) -> None:
    assert clients.reader.mode().mode is GuardMode.WEIR
    changed = clients.admin.set_mode(GuardMode.OBSERVE)
    assert not isinstance(changed, Queued)
    assert (changed.mode, changed.armed) == (GuardMode.OBSERVE, False)
    assert eventually(lambda: clients.reader.mode().mode is GuardMode.OBSERVE)
    with pytest.raises(InvalidInput):
        clients.admin.set_mode("sleep")


def test_producers_are_listed(clients: Clients) -> None:
    held_one(clients)
    assert eventually(lambda: clients.reader.producers() != ())
    (record,) = clients.reader.producers()
    assert (record.producer, record.seen, record.held) == ("alice", STEP_SIZE, 1)


def test_refusals_come_back_as_they_were(service_app: House, clients: Clients) -> None:
    assert clients.reader.wait_ready(timeout=5).armed
    with pytest.raises(InvalidBatch) as caught:
        clients.alice.send(torch.full((2, 2, 2), 1.5), [0, 1])
    assert (caught.value.code, caught.value.field) == ("out_of_bounds", "x[0]")
    with pytest.raises(Forbidden, match="role"):
        clients.alice.model()
    with Client(service_app.address, "weir_no_key") as stranger, pytest.raises(Unauthenticated):
        stranger.model()


def test_held_samples_are_reviewed_together(service_app: House, clients: Clients) -> None:
    sent = batch(strange=3)
    clients.alice.send(sent.x, sent.y, wait=20)
    assert eventually(lambda: len(list(clients.reader.quarantine())) == 3)
    lines = [json.loads(line) for line in clients.reader.export(reason=Reason.SAMPLE)]
    assert [torch.tensor(line["x"]).equal(x) for line, x in zip(lines, sent.x, strict=False)] == [True] * 3
    ids = tuple(line["id"] for line in lines)
    seen = clients.reviewer.review("release", producer="alice", limit=2)
    assert isinstance(seen, ReviewReport)
    assert (seen.ids, seen.more, seen.producers) == (ids[:2], True, {"alice": 2})
    released = clients.admin.review("release", limit=2, dry_run=False, force=True, note="fine")
    assert isinstance(released, ReviewReport)
    assert (released.ids, released.state) == (ids[:2], HeldState.RELEASED)
    assert eventually(lambda: clients.reader.held(ids[0]).state is HeldState.RELEASED)
    discarded = clients.reviewer.review("discard", dry_run=False)
    assert isinstance(discarded, ReviewReport)
    assert (discarded.ids, discarded.more) == (ids[2:], False)


def test_a_dead_letter_is_retried_and_dropped(service_app: House, clients: Clients) -> None:
    service_app.stores.dead_letters.put(dead_letter("b"))
    (letter,) = clients.reviewer.dead_letters(page_size=1)
    assert (letter.id, letter.samples, letter.retried_as) == ("b:0", 2, None)
    assert clients.reader.dead_letter("b:0").labels == (0, 1)
    retried = clients.reviewer.retry("b:0")
    assert clients.reader.batch(retried.batch).producer == "alice"
    with pytest.raises(Conflict):
        clients.reviewer.retry("b:0")
    clients.reviewer.drop("b:0")
    with pytest.raises(NotFound):
        clients.reviewer.drop("b:0")


def test_a_replay_is_followed_and_published(service_app: House, clients: Clients) -> None:
    first = clients.reader.checkpoints()[0]
    assert first.replayable
    held_one(clients)
    begun = clients.admin.start_replay(first.id, producers=["alice"])
    assert begun.state is ReplayState.RUNNING
    assert eventually(lambda: clients.reader.replay(begun.id).state is ReplayState.DONE)
    (done,) = clients.reader.replays()
    assert done.left_out == STEP_SIZE
    published = clients.admin.publish_replay(begun.id)
    assert isinstance(published, PublishReport)
    assert (published.left_out, published.accuracy) == (STEP_SIZE, done.accuracy)
    with pytest.raises(Conflict):
        clients.admin.cancel_replay(begun.id)


def test_an_erasure_is_counted_and_then_done(service_app: House, clients: Clients) -> None:
    held_one(clients)
    found = clients.admin.erase(producer="alice")
    assert found == ErasureReport(True, 1, STEP_SIZE, 1, 0)
    done = clients.admin.erase(producer="alice", dry_run=False)
    assert isinstance(done, ErasureReport)
    assert (done.dry_run, done.samples, done.quarantine) == (False, STEP_SIZE, 1)
    assert eventually(lambda: clients.admin.erase(producer="alice") == ErasureReport(True, 0, 0, 0, 0))
