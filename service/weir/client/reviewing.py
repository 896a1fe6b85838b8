"""The client's part for reviewers: what is held, what is dead, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

from weir.client.answers import Queued
from weir.client.connection import Connection, part
from weir.client.reading import read, read_held, read_page
from weir.client.reviews import (
    DeadLetterDetail,
    DeadLetterReport,
    HeldDetail,
    HeldSample,
    ReleaseReport,
    RetryReport,
    ReviewReport,
)
from weir.stores.base import HeldState
from weir.types import Reason

_T = TypeVar("_T")


class Reviewing(Connection):
    """See ``Client``."""

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
        params = _given({**wanted, "limit": page_size})
        return self._pages(HeldSample, "/v1/quarantine", params)

    def held(self, id: str) -> HeldDetail:
        """One quarantined sample, with its ``x`` as its step took it."""
        return read_held(self._transport.ask("GET", f"/v1/quarantine/{part(id)}"))

    def release(
        self, id: str, label: int | None = None, *, note: str | None = None, force: bool = False
    ) -> ReleaseReport | Queued:
        """Let a held sample through, with another ``label`` if given; ``force`` (admins) goes past the gate too."""
        answer = {"label": label, "note": note, "force": force}
        return self._command(ReleaseReport, "POST", f"/v1/quarantine/{part(id)}/release", json=answer)

    def discard(self, id: str, *, note: str | None = None) -> HeldSample:
        """Never learn a held sample; it stays on record."""
        response = self._transport.ask("POST", f"/v1/quarantine/{part(id)}/discard", json={"note": note})
        return read(HeldSample, response)

    def review(
        self,
        action: Literal["release", "discard"],
        *,
        state: HeldState | None = None,
        producer: str | None = None,
        reason: Reason | None = None,
        batch: str | None = None,
        label: int | None = None,
        limit: int = 100,
        dry_run: bool = True,
        relabel: int | None = None,
        note: str | None = None,
        force: bool = False,
    ) -> ReviewReport | Queued:
        """Release or discard up to ``limit`` held samples that fit; a ``dry_run`` only says which these are.

        What is released is learned as one step, with the label ``relabel`` if given.
        """
        wanted = {"state": state, "producer": producer, "reason": reason, "batch": batch, "label": label}
        answer = {"label": relabel, "note": note, "force": force}
        order = {"action": action, "filter": _given(wanted), "limit": limit, "dry_run": dry_run, **answer}
        return self._command(ReviewReport, "POST", "/v1/quarantine/bulk", repeatable=dry_run, json=order)

    def export(
        self,
        *,
        state: HeldState | None = None,
        producer: str | None = None,
        reason: Reason | None = None,
        batch: str | None = None,
        label: int | None = None,
    ) -> Iterator[str]:
        """The quarantined samples that fit with their data, each a line of JSON, as they arrive.

        Raises ServiceUnavailable when the connection breaks: what came until then is not all.
        """
        wanted = {"state": state, "producer": producer, "reason": reason, "batch": batch, "label": label}
        return self._transport.lines("/v1/quarantine/export", params=_given(wanted))

    def dead_letters(self, *, page_size: int | None = None) -> Iterator[DeadLetterReport]:
        """The deliveries that could not be processed, in the order they came; pages are fetched on the way."""
        return self._pages(DeadLetterReport, "/v1/dead-letters", _given({"limit": page_size}))

    def dead_letter(self, id: str) -> DeadLetterDetail:
        """One dead letter, with what it carries in words."""
        return read(DeadLetterDetail, self._transport.ask("GET", f"/v1/dead-letters/{part(id)}"))

    def retry(self, id: str) -> RetryReport:
        """Send a dead letter anew, once, as a batch of the same producer."""
        return read(RetryReport, self._transport.ask("POST", f"/v1/dead-letters/{part(id)}/retry"))

    def drop(self, id: str) -> None:
        """Delete a dead letter for good."""
        self._transport.ask("DELETE", f"/v1/dead-letters/{part(id)}", repeatable=False)

    def _pages(self, kind: type[_T], path: str, params: Mapping[str, Any]) -> Iterator[_T]:
        cursor: str | None = None
        while True:
            response = self._transport.ask("GET", path, params={**params, **_given({"cursor": cursor})})
            items, cursor = read_page(kind, response)
            yield from items
            if cursor is None:
                return


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
