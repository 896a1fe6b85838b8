"""The Python client: one method per route, tensors in, frozen values out, and Weir's own exceptions.

with Client("http://127.0.0.1:8790", key) as client:
    client.send(x, y, wait=10)
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from time import monotonic, sleep
from typing import overload

import httpx
from torch import Tensor

from weir import codec
from weir.client.administration import BINARY, Administration
from weir.client.answers import (
    BatchReceipt,
    BatchReport,
    Counts,
    ModelReport,
    ModeReport,
    Prediction,
    ProbeReport,
    Queued,
    Readiness,
    SampleReport,
)
from weir.client.arrays import Numbers, labels_of, samples_of
from weir.client.changes import CheckpointReport, ErasureReport, PublishReport, RollbackReport
from weir.client.connection import part
from weir.client.problems import error_of
from weir.client.reading import read, read_page, read_prediction, read_weights
from weir.client.reviewing import Reviewing
from weir.client.reviews import (
    DeadLetterDetail,
    DeadLetterReport,
    HeldDetail,
    HeldSample,
    Refusal,
    ReleaseReport,
    RetryReport,
    ReviewReport,
)
from weir.errors import NotReady, ServiceUnavailable
from weir.types import Batch, ProducerReport

__all__ = [
    "BatchReceipt",
    "BatchReport",
    "CheckpointReport",
    "Client",
    "CommandReport",
    "Counts",
    "DeadLetterDetail",
    "DeadLetterReport",
    "ErasureReport",
    "HeldDetail",
    "HeldSample",
    "ModeReport",
    "ModelReport",
    "Prediction",
    "ProbeReport",
    "PublishReport",
    "Queued",
    "Readiness",
    "Refusal",
    "ReleaseReport",
    "RetryReport",
    "ReviewReport",
    "RollbackReport",
    "SampleReport",
]

_POLL_SECONDS = 0.25


class Client(Reviewing, Administration):
    """A Weir service at ``base_url``; safe to share between threads, and a context manager that closes its connections.

    ``key`` is an API key; without keys a service takes the producer's name from ``producer``. ``timeout`` bounds one
    try, and ``patience`` all tries of one request together, in seconds: a service that is busy or full (429, 503, 507)
    or not reached is asked again, which never carries anything out twice.

    Every method raises the exception of ``weir.errors`` that the service met, with its words and ``code``, or
    ServiceUnavailable. Data of the exception that the service's answer does not carry is absent.
    """

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
        headers = {**BINARY, "Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        params = {} if wait is None else {"wait": wait}
        response = self._transport.ask(
            "POST", "/v1/batches", repeatable=True, wait=wait or 0.0, content=body, headers=headers, params=params
        )
        if response.status_code == httpx.codes.ACCEPTED:
            return read(BatchReceipt, response)
        return read(BatchReport, response)

    def batch(self, id: str) -> BatchReport:
        """What became of a batch; a producer sees its own."""
        return read(BatchReport, self._transport.ask("GET", f"/v1/batches/{part(id)}"))

    def predict(self, x: Numbers) -> Prediction:
        """What the published model says of ``x`` (n, *shape)."""
        body = codec.encode_x(samples_of(x))
        ask = self._transport.ask
        return read_prediction(ask("POST", "/v1/predict", repeatable=True, content=body, headers=BINARY))

    def model(self) -> ModelReport:
        """Where the learner stands, and how the model was built."""
        return read(ModelReport, self._transport.ask("GET", "/v1/model"))

    def weights(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The published weights by name, and their metadata: the ``step``, and the ``recipe`` as JSON."""
        return read_weights(self._transport.ask("GET", "/v1/model/weights"))

    def producers(self) -> tuple[ProducerReport, ...]:
        """Per producer: samples seen, held and corrected, and the evidence of its newest samples together."""
        return read_page(ProducerReport, self._transport.ask("GET", "/v1/producers"))[0]

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
