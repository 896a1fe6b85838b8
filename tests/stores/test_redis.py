"""What is Redis's own: one learner at a time, lost connections and answers, a server that forgets, is full or gone."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
from tests.redis_server import DURABLE, RedisServer, running

from weir.errors import Conflict, Fenced, InvalidSetting, StorageFailed, StorageFull
from weir.stores.base import (
    AuditRecord,
    Cursor,
    DeadLetter,
    Decision,
    Entry,
    EntryKind,
    Held,
    HeldState,
    IdempotencyKey,
    KeyRecord,
    NewEntry,
)
from weir.stores.redis import Redis
from weir.types import Reason, SampleRef, SampleVerdict, Verdict

pytestmark = pytest.mark.needs("redis-server")

ROOT = Path(__file__).parents[2]
LEASE = 0.4
SUSPECT = SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE, 0.9)
DECISION = Decision(1, Cursor(0), Cursor(1), (SampleRef("b_1", 0),), (SUSPECT,))
HELD = Held("b_1", 0, "ada", 0, 1, SUSPECT, b"sample", 10.0)
LETTER = DeadLetter("b_1", 0, 1, "ada", 1, "ValueError", b"batch", 10.0)
KEY = KeyRecord("k_1", "ada", frozenset(), "aa" * 32, 10.0)
LEARNER_WRITES: dict[str, Callable[[Redis], object]] = {
    "journal.record": lambda stores: stores.journal.record(DECISION),
    "journal.in_weights": lambda stores: stores.journal.in_weights([], 1),
    "journal.trim": lambda stores: stores.journal.trim(1),
    "log.consumed": lambda stores: stores.log.consumed(1),
    "log.trim": lambda stores: stores.log.trim(1, keep_bytes=0),
    "quarantine.put": lambda stores: stores.quarantine.put([HELD]),
    "dead_letters.put": lambda stores: stores.dead_letters.put(LETTER),
    "publications.put": lambda stores: stores.publications.put(b"model", "aa" * 32),
    "publications.say": lambda stores: stores.publications.say(b"word"),
}


class Open(Protocol):
    """Opens this test's stores once more, as another process would."""

    def __call__(self, url: str | None = None, **settings: Any) -> Redis: ...


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """A server of this module's own, whose settings its tests change and put back."""
    with running() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> Iterator[RedisServer]:
    yield shared
    with shared.client() as client:
        for name, value in {**DURABLE, "maxmemory": "0", "rdbcompression": "yes"}.items():
            client.config_set(name, value)


@pytest.fixture
def opened(server: RedisServer, tmp_path: Path) -> Iterator[Open]:
    stores: list[Redis] = []

    def again(url: str | None = None, **settings: Any) -> Redis:
        stores.append(Redis(url or server.url, prefix=str(tmp_path), lease_seconds=LEASE, **settings))
        return stores[-1]

    yield again
    for one in stores:
        one.close()


@pytest.fixture
def stores(opened: Open) -> Redis:
    return opened()


class Learner:
    """Another process that owns the log."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.redis_learner", server.url, prefix, str(LEASE)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.said() == "owned"

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def record(self, position: int) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{position}\n")
        self.process.stdin.flush()
        return self.said()


@pytest.fixture
def learner(server: RedisServer, tmp_path: Path) -> Iterator[Learner]:
    other = Learner(server, str(tmp_path))
    with other.process:
        yield other
        other.process.kill()


def deliver(stores: Redis, payload: bytes = b"x", key: IdempotencyKey | None = None) -> tuple[Entry, bool]:
    return stores.log.append(EntryKind.BATCH, "ada", payload, samples=1, key=key)


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@contextmanager
def answer_lost(stores: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The next script is run, or the next ones in one go, and the connection breaks before the answer is there."""
    server, client = stores._server, stores._server._client
    lost = itertools.chain([True], itertools.repeat(False))

    def unheard(run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            answer = run(*args)
            if next(lost):
                raise redis.ConnectionError("the connection was lost")
            return answer

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(client, "evalsha", unheard(client.evalsha))
        patched.setattr(server, "_pipelined", unheard(server._pipelined))
        yield
    assert not next(lost), "nothing was run"


def test_another_learner_is_named_and_refused(learner: Learner, stores: Redis) -> None:
    assert learner.record(1) == "recorded"
    named = rf"process {learner.process.pid} on \S+ .* another 0\.\d s"
    for patience in (0.0, 2.5 * LEASE):
        with pytest.raises(Conflict, match=named), stores.owned(wait=patience):
            pass
    assert learner.record(2) == "recorded", "it did not renew its lease"


def test_a_learner_that_died_makes_room_when_its_lease_runs_out(learner: Learner, stores: Redis) -> None:
    learner.process.kill()
    with stores.owned():
        stores.journal.record(DECISION)
    assert stores.journal.after(Cursor()) == [DECISION]


def test_a_learner_that_stood_still_is_fenced_when_it_wakes(learner: Learner, stores: Redis) -> None:
    learner.process.send_signal(signal.SIGSTOP)
    with stores.owned():
        stores.journal.record(DECISION)
        learner.process.send_signal(signal.SIGCONT)
        assert learner.record(5) == "Fenced"
    assert learner.record(6) == "Fenced", "it got the log back without taking it"
    assert stores.journal.after(Cursor()) == [DECISION]


def test_who_leaves_gives_the_log_back_at_once(opened: Open) -> None:
    first, second = opened(), opened()
    with first.owned():
        first.journal.record(DECISION)
    with second.owned(wait=0), pytest.raises(Conflict), first.owned(wait=0):
        pass
    with first.owned(wait=0):
        first.journal.in_weights([], 1)


@pytest.mark.parametrize("write", LEARNER_WRITES)
def test_nobody_else_writes_as_the_learner(opened: Open, write: str) -> None:
    api, learner = opened(), opened()
    LEARNER_WRITES[write](api)  # nobody ever owned the log
    with learner.owned():
        LEARNER_WRITES[write](learner)
        with pytest.raises(Fenced):
            LEARNER_WRITES[write](api)
    for left in (api, learner):
        with pytest.raises(Fenced):
            LEARNER_WRITES[write](left)
    assert deliver(api)[1]


def test_a_lease_that_ran_out_and_that_nobody_took_goes_on(stores: Redis, server: RedisServer, tmp_path: Path) -> None:
    lease = f"{{{tmp_path}}}:lease"
    with server.client() as client, stores.owned():
        client.delete(lease)
        stores.journal.record(DECISION)
        until(lambda: bool(client.exists(lease)))
    assert stores.journal.after(Cursor()) == [DECISION]


@pytest.mark.parametrize("key", [None, IdempotencyKey("order-1", "aa")])
def test_an_append_whose_answer_was_lost_is_there_once(
    stores: Redis, monkeypatch: pytest.MonkeyPatch, key: IdempotencyKey | None
) -> None:
    deliver(stores)
    with answer_lost(stores, monkeypatch):
        entry, new = deliver(stores, b"y", key)
    assert new
    assert stores.log.read(1, 10) == [entry]
    assert stores.log.backlog().batches == 2


def test_what_was_appended_in_one_go_and_whose_answer_was_lost_is_there_once(
    stores: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = [NewEntry(EntryKind.BATCH, "ada", bytes([number]), 1) for number in range(3)]
    with answer_lost(stores, monkeypatch):
        outcomes = stores.log.append_all(new)
    assert outcomes == [(entry, True) for entry in stores.log.read(0, 10)]
    assert [entry.payload for entry in stores.log.read(0, 10)] == [b"\0", b"\1", b"\2"]


def test_no_write_counts_twice_when_its_answer_was_lost(stores: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.quarantine.put([HELD])
    stores.dead_letters.put(LETTER)
    deliver(stores)
    for write in LEARNER_WRITES.values():
        write(stores)  # the scripts are known to the server from now on
    with answer_lost(stores, monkeypatch):
        stores.journal.record(Decision(1, Cursor(1), Cursor(2), (SampleRef("b_2", 0),), (SUSPECT,)))
    assert not stores.journal.wait("b_2", 2, 0.0)
    stores.audit.record(line := AuditRecord(10.0, "eve", "discard", "b_1:0"))
    with answer_lost(stores, monkeypatch):
        stores.audit.record(line)
    assert stores.audit.recent(10) == [line, line]
    stores.keys.add(KEY)
    with answer_lost(stores, monkeypatch):
        stores.keys.add(KeyRecord("k_2", "eve", frozenset(), "bb" * 32, 10.0))
    stores.quarantine.move("b_1:0", HeldState.RELEASED, expect=[HeldState.HELD])
    with answer_lost(stores, monkeypatch):
        moved = stores.quarantine.move("b_1:0", HeldState.DISCARDED, expect=[HeldState.RELEASED])
    assert moved.state is HeldState.DISCARDED
    with pytest.raises(Conflict):
        stores.quarantine.move("b_1:0", HeldState.DISCARDED, expect=[HeldState.RELEASED])
    stores.dead_letters.put(DeadLetter("b_1", 1, 1, "ada", 1, "", b"", 10.0))
    stores.dead_letters.retried("b_1:1", "b_2")
    with answer_lost(stores, monkeypatch):
        assert stores.dead_letters.retried("b_1:0", "b_2").retried_as == "b_2"


def test_whatever_was_acknowledged_outlives_a_killed_server(tmp_path: Path) -> None:
    with running() as server, Redis(server.url, timeout=2.0) as stores, stores.owned():
        acknowledged: list[list[str]] = [[] for _ in range(8)]

        def produce(own: list[str]) -> None:
            for number in itertools.count():
                try:
                    own.append(deliver(stores, b"%d" % number)[0].id)
                except StorageFailed:
                    return

        with ThreadPoolExecutor(8) as pool:
            producers = [pool.submit(produce, own) for own in acknowledged]
            until(lambda: min(map(len, acknowledged)) >= 10)
            server.kill()
            for producer in producers:
                producer.result(timeout=10.0)
        with pytest.raises(StorageFailed, match="start it, or check its address"):
            stores.log.tail()
        server.start()
        entries = stores.log.read(0, 100_000)
        assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
        assert {entry.id for entry in entries} >= set(itertools.chain(*acknowledged))
        assert stores.log.backlog().batches == len(entries)
        assert deliver(stores)[0].position == len(entries) + 1
        stores.journal.record(DECISION)


def test_a_wait_hears_other_processes(opened: Open) -> None:
    waiter, writer = opened(), opened()
    with ThreadPoolExecutor(41) as pool:
        waits = [pool.submit(waiter.log.wait, 0, 20.0) for _ in range(40)]
        decided = pool.submit(waiter.journal.wait, "b_1", 1, 20.0)
        until(lambda: waiter._listener._thread is not None)
        begun = time.monotonic()
        deliver(writer)
        writer.journal.record(DECISION)
        assert all(wait.result(timeout=10.0) for wait in waits)
        assert decided.result(timeout=10.0)
        assert time.monotonic() - begun < 5.0


def test_a_wait_outlives_a_lost_connection(opened: Open, server: RedisServer) -> None:
    waiter, writer = opened(), opened()
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        wait = pool.submit(waiter.log.wait, 0, 20.0)
        until(lambda: client.client_kill_filter(_type="pubsub") > 0)
        deliver(writer)
        assert wait.result(timeout=10.0)


def test_connections_are_bounded(stores: Redis, server: RedisServer) -> None:
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            stores.log.tail()

    with server.client() as client, ThreadPoolExecutor(40) as pool:
        before = int(client.info("clients")["connected_clients"])
        asking = [pool.submit(ask) for _ in range(40)]
        time.sleep(0.2)
        seen = int(client.info("clients")["connected_clients"])
        stop.set()
        for one in asking:
            one.result(timeout=10.0)
    assert seen - before <= 16


def test_a_durable_server_promises_all(stores: Redis) -> None:
    assert stores.durability.relaxed_because == ()


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("appendonly", "no", "a restart loses what was acknowledged; set it to yes"),
        ("appendfsync", "everysec", "up to a second of acknowledged batches can be lost; set it to always"),
        ("appendfsync", "no", "whatever the machine had not yet written to its disk can be lost; set it to always"),
        ("no-appendfsync-on-rewrite", "yes", "acknowledged while the file is rewritten can be lost; set it to no"),
        ("maxmemory-policy", "allkeys-lru", "a full server may delete what was acknowledged; set it to noeviction"),
    ],
)
def test_a_weaker_setting_is_told(opened: Open, server: RedisServer, setting: str, value: str, told: str) -> None:
    stores = opened()
    assert stores.durability.relaxed_because == ()
    with server.client() as client:
        before = str(client.config_get(setting)[setting])
        client.config_set(setting, value)
        assert stores.durability.relaxed_because == ()  # asked once for each connection
        client.client_kill_filter(_type="normal", skipme=True)
        deliver(stores)
        told_now = stores.durability.relaxed_because
        client.config_set(setting, before)
    why = " ".join(told_now)
    assert why.startswith(f"{setting} is {value}: ")
    assert why.endswith(told)


def test_settings_that_may_not_be_read_are_told(server: RedisServer, opened: Open) -> None:
    with server.client() as client:
        allowed = ["+@all", "-config"]
        client.acl_setuser("limited", True, passwords="+s3cret", keys="*", channels="*", commands=allowed)
        (why,) = opened(f"unix://limited:s3cret@{server.socket}").durability.relaxed_because
    assert "cannot be verified" in why


def test_a_full_server_takes_nothing_until_there_is_room(stores: Redis, server: RedisServer) -> None:
    entry, _ = deliver(stores)
    stores.quarantine.put([HELD])
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StorageFull, match="maxmemory"):
            deliver(stores)
        with pytest.raises(StorageFull):
            stores.quarantine.put([HELD])
        # What makes room, or must never wait for it, goes on.
        stores.journal.record(DECISION)
        stores.log.rewrite(entry.id, b"")
        stores.log.consumed(1)
        assert stores.log.trim(1, keep_bytes=0) == 1
        assert stores.quarantine.drop(["b_1:0"]) == 1
        assert stores.log.tail() == 1
        client.config_set("maxmemory", "0")
    assert deliver(stores)[0].position == 2


def test_a_password_is_in_no_message() -> None:
    with running({**DURABLE, "requirepass": "r1ght"}) as server:
        urls = [
            f"unix://{server.socket}",
            f"unix://:s3cret@{server.socket}",
            f"unix://s3cret:s3cret@{server.socket}",
            "unix://:s3cret@/nowhere/redis.sock",
            "redis://:s3cret@127.0.0.1:1/0",
            "redis://:s3cret@127.0.0.1:s3cret/0",
            "http://:s3cret@127.0.0.1/",
        ]
        for url in urls:
            with pytest.raises((StorageFailed, InvalidSetting)) as raised:
                Redis(url)
            assert "s3cret" not in "".join(traceback.format_exception(raised.value))
        with Redis(f"unix://:r1ght@{server.socket}") as stores:
            assert deliver(stores)[1]


def test_erased_bytes_are_gone_from_memory_and_files(stores: Redis, server: RedisServer, tmp_path: Path) -> None:
    secret = b"0123456789 what nobody may keep"
    entries = [deliver(stores, payload)[0] for payload in (b"before", secret, b"after")]
    with server.client() as client:
        client.config_set("rdbcompression", "no")  # which DUMP follows too

        def kept() -> bool:
            names = [name for name in client.scan_iter(count=1_000) if str(tmp_path).encode() in name]
            return any(secret in (client.dump(name) or b"") for name in names)

        assert kept()
        stores.log.rewrite(entries[1].id, b"erased")
        assert not kept()


def test_every_key_is_in_one_slot_and_what_repeats_expires(stores: Redis, server: RedisServer, tmp_path: Path) -> None:
    deliver(stores, key=IdempotencyKey("order-1", "aa"))
    stores.audit.record(AuditRecord(10.0, "eve", "discard", "b_1:0"))
    stores.log.consumed(1)
    with server.client() as client:
        names = {name.decode(): client.pttl(name) for name in client.scan_iter(f"*{tmp_path}*", count=1_000)}
    tag = f"{{{tmp_path}}}:"
    assert all(name.startswith(tag) for name in names)
    lives = {name.removeprefix(tag).partition(":")[0]: left for name, left in names.items() if left != -1}
    assert set(lives) == {"idempotency", "once"}
    assert 47 * 3_600_000 < lives["idempotency"] <= 48 * 3_600_000
    assert lives["once"] <= 60_000


def test_a_position_that_a_relaxed_server_lost_is_not_given_again(stores: Redis) -> None:
    deliver(stores)
    stores.log.consumed(5)  # a checkpoint knows of entries that are gone
    assert stores.log.tail() == 5
    entry, _ = deliver(stores)
    assert entry.position == 6
    assert stores.log.read(5, 10) == [entry]


def test_stores_of_another_version_are_left_alone(opened: Open, server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.set(f"{{{tmp_path}}}:schema", "99")
    with pytest.raises(StorageFailed, match=r"expected schema version 1 .* got 99"):
        opened()


def test_a_closed_store_says_so(opened: Open) -> None:
    stores = opened()
    stores.close()
    with pytest.raises(StorageFailed, match="closed"):
        stores.log.tail()


def test_a_server_that_was_restarted_has_lost_what_was_published_and_tells_the_learner() -> None:
    with running() as server, Redis(server.url) as stores, stores.owned():
        version = stores.publications.put(b"model", "aa" * 32)
        assert stores.publications.say(b"word") == version
        server.kill()
        server.start()
        assert stores.publications.newest() is None
        assert stores.publications.heard() is None
        assert stores.publications.say(b"word") == 0
        assert stores.publications.put(b"model", "aa" * 32) > version


def test_what_is_published_costs_the_append_only_file_nothing(shared: RedisServer) -> None:
    with shared.client() as client, Redis(shared.url, prefix="published") as stores, stores.owned():
        before = client.info("persistence")["aof_current_size"]
        stores.publications.put(bytes(1 << 20), "aa" * 32)
        assert client.info("persistence")["aof_current_size"] - before < 10_000
