"""The service's problem documents (RFC 9457) as the exceptions that they were."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx

from weir import errors

INVALID: dict[str, type[errors.InvalidInput]] = {
    error.code: error for error in (errors.InvalidInput, errors.InvalidProbe, errors.InvalidSetting)
}
_TOLD: tuple[type[errors.WeirError], ...] = (
    errors.Refused,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.NotFound,
    errors.Conflict,
    errors.Elsewhere,
    errors.TooLarge,
    errors.UnsupportedType,
    errors.LogFull,
    errors.QuotaExceeded,
    errors.NotReady,
    errors.ModelNotBuilt,
    errors.DamagedCheckpoint,
    errors.DamagedPublication,
    errors.StorageFailed,
    errors.StorageFull,
    errors.Fenced,
    errors.GroupLost,
    errors.RankFailed,
)
TOLD = {error.code: error for error in _TOLD} | {"quarantine_full": errors.QuotaExceeded}
_OF_A_BATCH = ("body", "x", "y", "ids")
_OF_A_PROBE = "probe"


def error_of(response: httpx.Response) -> errors.WeirError:
    """The exception for a failed request, with the service's own ``code`` and words.

    It is of the service's class where the code is known. Otherwise it is Refused below the status 500, and
    ServiceUnavailable from there on and for an answer that is no problem document.
    """
    document = _document(response)
    if document is None:
        seen = f"{response.status_code} {response.headers.get('content-type', 'without a type')}"
        return errors.ServiceUnavailable(f"{response.url} answered {seen}: no Weir service is there; check the address")
    code = str(document["code"])
    if "field" in document:
        return _invalid(code, document)
    unknown = errors.Refused if response.status_code < 500 else errors.ServiceUnavailable
    error = _told(TOLD.get(code, unknown), str(document.get("detail") or document.get("title") or code))
    error.code = code
    if isinstance(error, errors.LogFull | errors.QuotaExceeded | errors.NotReady):
        error.retry_after = retry_after(response) or 1.0
    return error


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that the service asks to wait, if it does; a date instead is passed over."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _document(response: httpx.Response) -> dict[str, Any] | None:
    try:
        document = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and "code" in document else None


def _invalid(code: str, document: dict[str, Any]) -> errors.InvalidInput:
    """Many codes name what is wrong with a batch or a probe set: there the field tells the class."""
    field = str(document["field"])
    root = field.partition("[")[0]
    by_field = errors.InvalidBatch if root in _OF_A_BATCH else errors.InvalidInput
    kind = INVALID.get(code, errors.InvalidProbe if root == _OF_A_PROBE else by_field)
    return kind(field, document.get("seen", ""), str(document.get("expected", "")), code=code)


def _told(kind: type[errors.WeirError], detail: str) -> errors.WeirError:
    """An exception that says what the service said; its own constructor would build the words from data."""
    return kind.__new__(kind, detail)
