"""The client against a real HTTP server that plays what a test tells it: retries, and errors that come back."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import torch

from weir import client as client_module
from weir import codec, errors
from weir.client import BatchReceipt, BatchReport, Client, ErasureReport, Queued, ReviewReport, problems, transport
from weir.types import InputSpec, Reason, ReplayOrder, ReplayReport, ReplayState, ReplayVerdicts, Verdict

RECEIPT = {"id": "b1", "state": "queued", "samples": 2, "durability": "durable"}
X, Y = torch.tensor([[0.0, 0.5], [0.25, 1.0]]), torch.tensor([0, 1])


@dataclass(frozen=True)
class Answer:
    """One scripted answer; ``body`` None cuts the connection without one."""

    status: int = 200
    body: object | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Script:
    """A server that gives the answers in turn and remembers the requests."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.answers: list[Answer] = []
        self.seen: list[Seen] = []

    def play(self, *answers: Answer) -> None:
        """Answer the next requests so."""
        self.answers = list(answers)


@pytest.fixture
def script() -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            played.seen.append(Seen(self.command, self.path, headers, body))
            answer = played.answers.pop(0)
            if answer.body is None:
                self.close_connection = True
                return
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests look at ``seen``."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        played = Script(server)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield played
        server.shutdown()
        thread.join()


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (transport, client_module):
        monkeypatch.setattr(module, "sleep", clock.sleep)
        monkeypatch.setattr(module, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def client(script: Script, clock: Clock) -> Iterator[Client]:
    with Client(script.url, "weir_id_secret", patience=30) as client:
        yield client


def problem(status: int, code: str, headers: dict[str, str] | None = None, **more: str) -> Answer:
    body = {"type": "about:blank", "title": "Title", "status": status, "detail": "what was said", "code": code, **more}
    return Answer(status, body, {"Content-Type": "application/problem+json", **(headers or {})})


def test_a_batch_travels_as_safetensors_with_its_key_and_ids(script: Script, client: Client) -> None:
    script.play(Answer(202, RECEIPT))
    assert client.send(X, Y, ids=["a", "b"]) == BatchReceipt("b1", "queued", 2, "durable")
    (seen,) = script.seen
    assert (seen.method, seen.path) == ("POST", "/v1/batches")
    assert seen.headers["authorization"] == "Bearer weir_id_secret"
    batch = codec.decode(seen.headers["content-type"], seen.body, InputSpec((2,), 2), max_samples=2)
    assert torch.equal(batch.x, X)
    assert torch.equal(batch.y, Y)
    assert batch.ids == ("a", "b")


def test_waiting_gives_the_verdicts_and_a_receipt_when_they_take_longer(script: Script, client: Client) -> None:
    verdict = {"index": 0, "id": None, "step": 3, "verdict": "quarantine", "reason": "sample", "score": 2.0}
    verdict |= {"threshold": 1.0, "discrepancy": 0.1, "pvalue": 0.01, "of_a_newer_service": 1}
    counts = {"accept": 1, "correct": 0, "quarantine": 1, "pending": 0}
    report = {"id": "b1", "state": "partial", "producer": "p", "samples": 2, "counts": counts, "verdicts": [verdict]}
    script.play(Answer(200, report), Answer(202, RECEIPT))
    decided = client.send(X, Y, wait=5)
    assert isinstance(decided, BatchReport)
    assert decided.verdicts is not None
    assert decided.verdicts[0].verdict is Verdict.QUARANTINE
    assert decided.counts.accept == 1
    assert isinstance(client.send(X, Y, wait=5), BatchReceipt)
    assert script.seen[0].path == "/v1/batches?wait=5"


@pytest.mark.parametrize(
    ("x", "sent"),
    [
        ([[0, 1], [0.5, 1]], torch.tensor([[0, 1], [0.5, 1]])),
        (np.array([[0, 255], [1, 2]], dtype=np.uint8), torch.tensor([[0, 255], [1, 2]], dtype=torch.uint8)),
        (np.array([[0, 1], [2, 3]], dtype=">f8")[:, ::-1], torch.tensor([[1.0, 0], [3, 2]])),
        (np.array([[0, 1], [2, 3]], dtype=np.int16), torch.tensor([[0.0, 1], [2, 3]])),
        (torch.ones(2, 2, dtype=torch.float64, requires_grad=True), torch.ones(2, 2)),
        (torch.ones(2, 2, dtype=torch.float16), torch.ones(2, 2, dtype=torch.float16)),
        ((torch.ones(2), torch.zeros(2)), torch.tensor([[1.0, 1], [0, 0]])),
    ],
)
def test_whatever_holds_numbers_is_sent(script: Script, client: Client, x: Any, sent: torch.Tensor) -> None:
    script.play(Answer(202, RECEIPT))
    client.send(x, np.array([1, 0], dtype=np.uint8))
    batch = codec.load(script.seen[0].body)
    assert batch.x.dtype == sent.dtype
    assert torch.equal(batch.x, sent)
    assert batch.y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("x", "y", "field"),
    [
        ([[0.0], [0.0, 1.0]], [0, 1], "x"),
        ([["a"], ["b"]], [0, 1], "x"),
        ([[True], [False]], [0, 1], "x"),
        (X, [0.5, 1.0], "y"),
        (X, torch.tensor([0.0, 1.0]), "y"),
        (X, [None, 1], "y"),
    ],
)
def test_what_holds_no_numbers_is_not_sent(script: Script, client: Client, x: Any, y: Any, field: str) -> None:
    with pytest.raises(errors.InvalidBatch) as caught:
        client.send(x, y)
    assert caught.value.field == field
    assert script.seen == []


def test_a_busy_service_is_asked_again_with_the_same_idempotency_key(
    script: Script, client: Client, clock: Clock
) -> None:
    script.play(
        problem(503, "log_full", {"Retry-After": "3"}),
        problem(429, "quota_exceeded", {"Retry-After": "2"}),
        problem(507, "storage_full", {"Retry-After": "5"}),
        problem(429, "refused"),
        Answer(202, RECEIPT),
    )
    assert client.send(X, Y).id == "b1"
    assert len(script.seen) == 5
    assert len({seen.headers["idempotency-key"] for seen in script.seen}) == 1
    assert len({seen.body for seen in script.seen}) == 1
    first, second, third, fourth = clock.pauses
    assert 3 < first < 4
    assert 2 < second < 3
    assert 5 < third < 6
    assert 0 < fourth < 1


def test_each_call_has_a_key_of_its_own_unless_told(script: Script, client: Client) -> None:
    script.play(*[Answer(202, RECEIPT)] * 3)
    client.send(X, Y)
    client.send(X, Y)
    client.send(X, Y, idempotency_key="mine")
    first, second, third = (seen.headers["idempotency-key"] for seen in script.seen)
    assert first != second
    assert third == "mine"


def test_a_broken_connection_repeats_a_batch_under_its_key(script: Script, client: Client) -> None:
    script.play(Answer(), Answer(), Answer(202, RECEIPT))
    assert client.send(X, Y).id == "b1"
    assert len({seen.headers["idempotency-key"] for seen in script.seen}) == 1
    assert len(script.seen) == 3


def test_a_broken_connection_does_not_repeat_a_command(script: Script, client: Client) -> None:
    script.play(Answer(), Answer(200, {}))
    with pytest.raises(errors.ServiceUnavailable, match="not known"):
        client.rollback("c1")
    assert len(script.seen) == 1


@pytest.mark.parametrize(
    ("code", "tries"), [("not_ready", 2), ("log_full", 2), ("storage_full", 2), ("storage_failed", 1), ("fenced", 1)]
)
def test_a_command_is_repeated_only_if_it_was_surely_not_taken(
    script: Script, client: Client, code: str, tries: int
) -> None:
    script.play(problem(503, code), problem(409, "conflict"))
    with pytest.raises(errors.WeirError):
        client.release("b:0")
    assert len(script.seen) == tries


def test_patience_is_bounded_and_pauses_grow(script: Script, clock: Clock) -> None:
    script.play(*[problem(503, "not_ready")] * 50)
    with Client(script.url, patience=12) as client, pytest.raises(errors.NotReady):
        client.predict(X)
    assert sum(clock.pauses) <= 12
    assert 4 <= len(clock.pauses) <= 10
    assert clock.pauses[-1] > 4 * clock.pauses[0]


def test_a_longer_retry_after_than_patience_is_not_waited_for(script: Script, client: Client, clock: Clock) -> None:
    script.play(problem(503, "log_full", {"Retry-After": "600"}))
    with pytest.raises(errors.LogFull) as caught:
        client.send(X, Y)
    assert clock.pauses == []
    assert caught.value.retry_after == 600


@pytest.mark.parametrize("date", ["Wed, 21 Oct 2015 07:28:00 GMT", "nan", "-5", "inf"])
def test_a_retry_after_that_is_no_number_of_seconds_is_passed_over(
    script: Script, client: Client, clock: Clock, date: str
) -> None:
    script.play(problem(503, "not_ready", {"Retry-After": date}), Answer(202, RECEIPT))
    client.send(X, Y)
    assert 0 < clock.pauses[0] <= 0.1


def test_nobody_there_names_the_address_and_the_cure(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", patience=2) as client:
        with pytest.raises(errors.ServiceUnavailable, match=f"127.0.0.1:{port}.*weir serve"):
            client.rollback("c1")
        with pytest.raises(errors.ServiceUnavailable):
            client.ready()
    assert sum(clock.pauses) > 0


REFUSALS: list[tuple[int, type[errors.WeirError], str]] = [
    (401, errors.Unauthenticated, "unauthenticated"),
    (403, errors.Forbidden, "forbidden"),
    (404, errors.NotFound, "not_found"),
    (409, errors.Conflict, "conflict"),
    (413, errors.TooLarge, "too_large"),
    (415, errors.UnsupportedType, "unsupported_type"),
    (409, errors.Refused, "refused"),
    (409, errors.DamagedCheckpoint, "damaged_checkpoint"),
    (429, errors.QuotaExceeded, "quota_exceeded"),
    (429, errors.QuotaExceeded, "quarantine_full"),
    (507, errors.StorageFull, "storage_full"),
    (503, errors.Fenced, "fenced"),
    (503, errors.GroupLost, "group_lost"),
    (500, errors.RankFailed, "rank_failed"),
    (405, errors.Refused, "method_not_allowed"),
    (500, errors.ServiceUnavailable, "internal_error"),
]


@pytest.mark.parametrize(("status", "kind", "code"), REFUSALS)
def test_problems_come_back_as_the_exceptions_they_were(
    script: Script, client: Client, status: int, kind: type[errors.WeirError], code: str
) -> None:
    script.play(problem(status, code, {"Retry-After": "600"}))
    with pytest.raises(kind) as caught:
        client.batch("b1")
    assert type(caught.value) is kind
    if isinstance(caught.value, errors.QuotaExceeded):
        assert caught.value.retry_after == 600
    assert (caught.value.code, str(caught.value)) == (code, "what was said")


@pytest.mark.parametrize(
    ("code", "field", "kind"),
    [
        ("wrong_shape", "x[3]", errors.InvalidBatch),
        ("label_out_of_range", "y[0]", errors.InvalidBatch),
        ("truncated", "body", errors.InvalidBatch),
        ("probe_too_small", "probe", errors.InvalidProbe),
        ("invalid_input", "wait", errors.InvalidInput),
        ("key_reused", "Idempotency-Key", errors.InvalidInput),
    ],
)
def test_invalid_input_comes_back_with_its_place(
    script: Script, client: Client, code: str, field: str, kind: type[errors.InvalidInput]
) -> None:
    script.play(problem(422, code, field=field, seen="this", expected="that"))
    with pytest.raises(errors.InvalidInput) as caught:
        client.send(X, Y)
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.field, error.seen, error.expected) == (code, field, "this", "that")
    assert str(error) == f"{field}: expected that, got this"


def test_every_error_that_can_travel_has_its_place_in_the_table() -> None:
    known = {*problems.INVALID.values(), *problems.TOLD.values()}
    told_by_field = {errors.InvalidBatch}
    never_travel = {errors.InvalidSettings, errors.ServiceUnavailable}

    def family(kind: type[errors.WeirError]) -> set[type[errors.WeirError]]:
        return {kind}.union(*(family(child) for child in kind.__subclasses__() if child.__module__ == errors.__name__))

    assert family(errors.WeirError) - {errors.WeirError} == known | told_by_field | never_travel


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1]", b"{}", b"[" * 100_000])
def test_an_answer_that_is_not_weirs_says_so(script: Script, client: Client, body: bytes) -> None:
    script.play(Answer(404, body, {"Content-Type": "text/html"}))
    with pytest.raises(errors.ServiceUnavailable, match="404 text/html"):
        client.model()


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"items": [{}]}', b'{"items": 3}'])
def test_a_success_that_is_not_weirs_says_so(script: Script, client: Client, body: bytes) -> None:
    calls: list[Callable[[], object]] = [
        client.model,
        client.checkpoints,
        lambda: list(client.quarantine()),
        lambda: client.predict(X),
        lambda: client.held("b:0"),
        client.weights,
    ]
    for call in calls:
        script.play(Answer(200, body))
        with pytest.raises(errors.ServiceUnavailable, match=script.url):
            call()


def test_a_redirect_is_not_followed_with_the_key(script: Script, client: Client) -> None:
    script.play(Answer(307, b"", {"Location": f"{script.url}/elsewhere"}))
    with pytest.raises(errors.ServiceUnavailable):
        client.model()
    assert len(script.seen) == 1


def test_a_command_that_takes_longer_is_queued(script: Script, client: Client) -> None:
    queued = {"id": "e1", "state": "queued", "durability": "relaxed"}
    script.play(*[Answer(202, queued)] * 8)
    calls: list[Callable[[], object]] = [
        lambda: client.release("b:0", 1, note="seen"),
        client.checkpoint,
        lambda: client.rollback("c1"),
        lambda: client.replace_probe(X, Y),
        lambda: client.set_mode("observe"),
        lambda: client.review("release", dry_run=False),
        lambda: client.publish_replay("r1"),
        lambda: client.erase(producer="p", dry_run=False),
    ]
    for call in calls:
        assert call() == Queued("e1", "queued", "relaxed")
    assert json.loads(script.seen[0].body) == {"label": 1, "note": "seen", "force": False}


def test_the_quarantine_is_paged_as_far_as_it_is_read(script: Script, client: Client) -> None:
    item = {"batch": "b", "index": 0, "producer": "p", "label": 1, "step": 2, "held_at": 1.0, "state": "held"}
    item |= {"verdict": "quarantine", "reason": "veto", "score": None, "threshold": None}
    item |= {"discrepancy": None, "pvalue": None}
    pages = [{"items": [{**item, "id": f"b:{n}"}], "next": following} for n, following in ((0, "c/1"), (1, None))]
    script.play(*(Answer(200, page) for page in pages))
    stream = client.quarantine(producer="p", label=0, page_size=1)
    assert next(stream).id == "b:0"
    assert [seen.path for seen in script.seen] == ["/v1/quarantine?producer=p&label=0&limit=1"]
    assert [held.id for held in stream] == ["b:1"]
    assert script.seen[1].path == "/v1/quarantine?producer=p&label=0&limit=1&cursor=c%2F1"


def test_an_id_stays_one_part_of_the_path(script: Script, client: Client) -> None:
    script.play(problem(404, "not_found"))
    with pytest.raises(errors.NotFound):
        client.batch("../model?x#y")
    assert script.seen[0].path == "/v1/batches/..%2Fmodel%3Fx%23y"


def test_wait_ready_outlasts_a_start(script: Script, client: Client, clock: Clock) -> None:
    missing = {"ready": False, "because": ["no model is published yet"], "armed": False, "unarmed_because": "no probe"}
    script.play(Answer(503, missing), Answer(), Answer(200, {**missing, "ready": True, "because": []}))
    assert client.wait_ready(timeout=5).ready
    assert len(clock.pauses) == 2


def test_wait_ready_gives_up_with_the_reason(script: Script, client: Client) -> None:
    missing = {"ready": False, "because": ["the trainer has stopped"], "armed": False, "unarmed_because": None}
    script.play(*[Answer(503, missing)] * 20)
    with pytest.raises(errors.NotReady, match="the trainer has stopped"):
        client.wait_ready(timeout=2)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8790", "ftp://host", "http://", "http://host:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidSetting) as caught:
        Client(url)
    assert caught.value.field == "base_url"


def test_a_key_that_no_header_holds_is_refused_without_showing_it() -> None:
    with pytest.raises(errors.InvalidSetting) as caught:
        Client("http://127.0.0.1:1", "weir_söcret\n")
    assert "cret" not in str(caught.value)


def test_without_keys_the_producer_names_itself(script: Script, clock: Clock) -> None:
    script.play(Answer(202, RECEIPT))
    with Client(script.url, producer="sensor-7") as client:
        client.send(X, Y)
    assert script.seen[0].headers["x-weir-producer"] == "sensor-7"
    assert "authorization" not in script.seen[0].headers


def test_a_proxy_of_the_outside_world_is_not_asked_about_this_machine(
    script: Script, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    script.play(Answer(202, RECEIPT))
    with Client(script.url) as client:
        assert client.send(X, Y).id == "b1"


def test_a_disk_that_stays_full_is_told_when_patience_ends(script: Script, client: Client, clock: Clock) -> None:
    script.play(*[problem(507, "storage_full", {"Retry-After": "5"})] * 50)
    with pytest.raises(errors.StorageFull):
        client.send(X, Y)
    assert 20 < sum(clock.pauses) <= 30


def test_a_review_is_a_dry_run_unless_told(script: Script, client: Client) -> None:
    seen = {"action": "discard", "dry_run": True, "ids": ["b:0"], "producers": {"p": 1}, "reasons": {"veto": 1}}
    script.play(Answer(), Answer(200, {**seen, "more": True}), Answer())
    report = client.review("discard", producer="p", reason=Reason.VETO, limit=5)
    assert isinstance(report, ReviewReport)
    assert (report.ids, report.producers, report.reasons, report.more) == (("b:0",), {"p": 1}, {Reason.VETO: 1}, True)
    order = json.loads(script.seen[1].body)
    assert order["filter"] == {"producer": "p", "reason": "veto"}
    assert (order["limit"], order["dry_run"], order["force"]) == (5, True, False)
    with pytest.raises(errors.ServiceUnavailable, match="not known"):
        client.review("discard", dry_run=False)
    assert len(script.seen) == 3


def test_an_export_gives_lines_as_they_come_and_says_when_they_break_off(script: Script, client: Client) -> None:
    script.play(
        Answer(200, b'{"id": "b:0"}\n{"id": "b:1"}\n'),
        Answer(200, b'{"id": "b:0"}\n', {"Content-Length": "500", "Connection": "close"}),
        problem(403, "forbidden"),
    )
    assert list(client.export(producer="p")) == ['{"id": "b:0"}', '{"id": "b:1"}']
    assert script.seen[0].path == "/v1/quarantine/export?producer=p"
    with pytest.raises(errors.ServiceUnavailable, match="broke"):
        list(client.export())
    with pytest.raises(errors.Forbidden):
        list(client.export())


def test_a_dead_letter_is_dropped_once(script: Script, client: Client) -> None:
    script.play(Answer(204, b""), Answer())
    client.drop("b:0")
    assert (script.seen[0].method, script.seen[0].path) == ("DELETE", "/v1/dead-letters/b:0")
    with pytest.raises(errors.ServiceUnavailable, match="not known"):
        client.drop("b:0")
    assert len(script.seen) == 2


def test_a_replay_comes_back_as_the_report_that_it_was(script: Script, client: Client) -> None:
    order = {"checkpoint": "c1", "producers": ["p"], "batches": [], "samples": ["b:0"], "verdicts": "anew"}
    report = {"id": "r1", "state": "running", "order": order, "by": "ops", "created_at": 1.0}
    report |= {"start": 2, "end": 9, "position": 4}
    script.play(Answer(202, report), Answer(200, {"items": [{**report, "state": "done", "accuracy": 0.9}]}))
    begun = client.start_replay("c1", producers=["p"], samples=["b:0"], verdicts="anew")
    assert json.loads(script.seen[0].body) == order
    wanted = ReplayOrder("c1", ("p",), (), ("b:0",), ReplayVerdicts.ANEW)
    assert begun == ReplayReport("r1", wanted, ReplayState.RUNNING, "ops", 1.0, start=2, end=9, position=4)
    (listed,) = client.replays()
    assert (listed.state, listed.accuracy) == (ReplayState.DONE, 0.9)


def test_an_erasure_names_one_thing_and_counts_it_first(script: Script, client: Client) -> None:
    found = {"dry_run": True, "entries": 1, "samples": 8, "quarantine": 2, "dead_letters": 0, "checkpoints": None}
    script.play(Answer(200, found))
    assert client.erase(batch="b1") == ErasureReport(True, 1, 8, 2, 0)
    assert json.loads(script.seen[0].body) == {"batch": "b1", "dry_run": True}
