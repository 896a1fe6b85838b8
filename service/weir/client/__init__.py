"""The Python client: one method per route, tensors in, frozen values out, and Weir's own exceptions.

with Client("http://127.0.0.1:8790", key) as client:
    client.send(x, y, wait=10)
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar, overload
from urllib.parse import quote

import httpx
from torch import Tensor

from weir import codec
from weir.client.answers import (
    BatchReceipt,
    BatchReport,
    Counts,
    HeldDetail,
    HeldSample,
    ModelReport,
    ModeReport,
    Prediction,
    ProbeReport,
    Queued,
    Readiness,
    ReleaseReport,
    RollbackReport,
    SampleReport,
    read,
    read_held,
    read_page,
    read_prediction,
    read_weights,
)
from weir.client.arrays import Numbers, labels_of, samples_of
from weir.client.problems import error_of
from weir.client.transport import Transport
from weir.errors import InvalidSetting, NotReady, ServiceUnavailable
from weir.stores.base import CheckpointInfo, HeldState
from weir.types import Batch, GuardMode, ProducerReport, Reason

__all__ = [
    "BatchReceipt",
    "BatchReport",
    "Client",
    "Counts",
    "HeldDetail",
    "HeldSample",
    "ModeReport",
    "ModelReport",
    "Prediction",
    "ProbeReport",
    "Queued",
    "Readiness",
    "ReleaseReport",
    "RollbackReport",
    "SampleReport",
]

_BINARY = {"Content-Type": codec.SAFETENSORS}
_POLL_SECONDS = 0.25

_T = TypeVar("_T")


class Client:
    """A Weir service at ``base_url``; safe to share between threads, and a context manager that closes its connections.

    ``key`` is an API key; without keys a service takes the producer's name from ``producer``. ``timeout`` bounds one
    try, and ``patience`` all tries of one request together, in seconds: a busy service (429, 503) and one that is not
    reached are asked again, which never carries anything out twice.

    Every method raises the exception of ``weir.errors`` that the service met, with its words and ``code``, or
    ServiceUnavailable. Data of the exception that the service's answer does not carry is absent.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        producer: str | None = None,
        timeout: float = 30.0,
        patience: float = 30.0,
    ) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {_header('key', key)}"}
        if producer is not None:
            headers["X-Weir-Producer"] = _header("producer", producer)
        self._transport = Transport(base_url, headers, timeout=timeout, patience=patience)

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @overload
    def send(
        self,
        x: Numbers,
        y: Numbers,
        ids: Sequence[str] | None = None,
        wait: None = None,
        idempotency_key: str | None = None,
    ) -> BatchReceipt: ...

    @overload
    def send(
        self,
        x: Numbers,
        y: Numbers,
        ids: Sequence[str] | None = None,
        wait: float = ...,
        idempotency_key: str | None = None,
    ) -> BatchReceipt | BatchReport: ...

    def send(
        self,
        x: Numbers,
        y: Numbers,
        ids: Sequence[str] | None = None,
        wait: float | None = None,
        idempotency_key: str | None = None,
    ) -> BatchReceipt | BatchReport:
        """Deliver a batch: ``x`` (n, *shape), ``y`` (n,); the receipt comes once the batch is in the log for good.

        With ``wait`` (seconds) a BatchReport comes instead, if all verdicts fall in that time. Under one
        ``idempotency_key`` a batch is taken once, however often it is sent; the default is a new one for each call.
        """
        body = codec.encode(Batch(samples_of(x), labels_of(y), None if ids is None else tuple(ids)))
        headers = {**_BINARY, "Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        params = {} if wait is None else {"wait": wait}
        response = self._transport.ask(
            "POST", "/v1/batches", repeatable=True, wait=wait or 0.0, content=body, headers=headers, params=params
        )
        if response.status_code == httpx.codes.ACCEPTED:
            return read(BatchReceipt, response)
        return read(BatchReport, response)

    def batch(self, id: str) -> BatchReport:
        """What became of a batch; a producer sees its own."""
        return read(BatchReport, self._transport.ask("GET", f"/v1/batches/{_part(id)}"))

    def predict(self, x: Numbers) -> Prediction:
        """What the published model says of ``x`` (n, *shape)."""
        body = codec.encode_x(samples_of(x))
        ask = self._transport.ask
        return read_prediction(ask("POST", "/v1/predict", repeatable=True, content=body, headers=_BINARY))

    def model(self) -> ModelReport:
        """Where the learner stands, and how the model was built."""
        return read(ModelReport, self._transport.ask("GET", "/v1/model"))

    def weights(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The published weights by name, and their metadata: the ``step``, and the ``recipe`` as JSON."""
        return read_weights(self._transport.ask("GET", "/v1/model/weights"))

    def quarantine(
        self,
        *,
        state: HeldState | None = None,
        producer: str | None = None,
        reason: Reason | None = None,
        batch: str | None = None,
        label: int | None = None,
        page_size: int | None = None,
    ) -> Iterator[HeldSample]:
        """The quarantined samples that fit, in the order they were held; pages are fetched as the iterator goes on."""
        wanted = {"state": state, "producer": producer, "reason": reason, "batch": batch, "label": label}
        params = {name: value for name, value in {**wanted, "limit": page_size}.items() if value is not None}
        cursor: str | None = None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            response = self._transport.ask("GET", "/v1/quarantine", params={**params, **more})
            items, cursor = read_page(HeldSample, response)
            yield from items
            if cursor is None:
                return

    def held(self, id: str) -> HeldDetail:
        """One quarantined sample, with its ``x`` as its step took it."""
        return read_held(self._transport.ask("GET", f"/v1/quarantine/{_part(id)}"))

    def release(
        self, id: str, label: int | None = None, *, note: str | None = None, force: bool = False
    ) -> ReleaseReport | Queued:
        """Let a held sample through, with another ``label`` if given; ``force`` (admins) goes past the gate too."""
        answer = {"label": label, "note": note, "force": force}
        return self._command(ReleaseReport, "POST", f"/v1/quarantine/{_part(id)}/release", json=answer)

    def discard(self, id: str, *, note: str | None = None) -> HeldSample:
        """Never learn a held sample; it stays on record."""
        response = self._transport.ask("POST", f"/v1/quarantine/{_part(id)}/discard", json={"note": note})
        return read(HeldSample, response)

    def checkpoints(self) -> tuple[CheckpointInfo, ...]:
        """The checkpoints that can be restored, oldest first."""
        return read_page(CheckpointInfo, self._transport.ask("GET", "/v1/checkpoints"))[0]

    def checkpoint(self, reason: str = "manual") -> CheckpointInfo | Queued:
        """Save a checkpoint now, between two steps."""
        return self._command(CheckpointInfo, "POST", "/v1/checkpoints", json={"reason": reason})

    def rollback(self, id: str) -> RollbackReport | Queued:
        """Restore the weights of a checkpoint; what the log brought since is not learned again."""
        return self._command(RollbackReport, "POST", "/v1/rollback", json={"checkpoint": id})

    def probe(self) -> ProbeReport:
        """The probe set in words; raises NotFound when there is none."""
        return read(ProbeReport, self._transport.ask("GET", "/v1/probe"))

    def replace_probe(self, x: Numbers, y: Numbers) -> ProbeReport | Queued:
        """Replace the probe set by trusted samples that the model was never trained on."""
        body = codec.encode(Batch(samples_of(x), labels_of(y)))
        return self._command(ProbeReport, "PUT", "/v1/probe", content=body, headers=_BINARY)

    def producers(self) -> tuple[ProducerReport, ...]:
        """Per producer: samples seen, held and corrected, and the evidence of its newest samples together."""
        return read_page(ProducerReport, self._transport.ask("GET", "/v1/producers"))[0]

    def mode(self) -> ModeReport:
        """What the guard does with its evidence."""
        return read(ModeReport, self._transport.ask("GET", "/v1/mode"))

    def set_mode(self, mode: GuardMode | str) -> ModeReport | Queued:
        """Change what the guard does with its evidence."""
        return self._command(ModeReport, "PUT", "/v1/mode", json={"mode": mode})

    def ready(self) -> Readiness:
        """Whether the service does its work, asked once."""
        response = self._transport.once("GET", "/health/ready")
        if response.status_code in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):
            return read(Readiness, response)
        raise error_of(response)

    def wait_ready(self, timeout: float = 60.0) -> Readiness:
        """Wait until the service does its work; raises NotReady or ServiceUnavailable after ``timeout`` seconds."""
        deadline = monotonic() + timeout
        while True:
            try:
                readiness = self.ready()
                failure: NotReady | ServiceUnavailable = NotReady(", ".join(readiness.because))
                if readiness.ready:
                    return readiness
            except ServiceUnavailable as error:
                failure = error
            if monotonic() + _POLL_SECONDS > deadline:
                raise failure
            sleep(_POLL_SECONDS)

    def _command(self, kind: type[_T], method: str, path: str, **parts: Any) -> _T | Queued:
        response = self._transport.ask(method, path, **parts)
        if response.status_code == httpx.codes.ACCEPTED:
            return read(Queued, response)
        return read(kind, response)


def _part(id: str) -> str:
    """An id as one part of a path, whatever it holds."""
    return quote(id, safe=":")


def _header(name: str, value: str) -> str:
    """A value fit for a header; the error says nothing of it, for it may be a secret."""
    if not (value and value.isascii() and value.isprintable()):
        raise InvalidSetting(name, "something else", "printable ASCII characters")
    return value
