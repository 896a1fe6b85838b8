"""Verdicts as text: one JSON list per field, so that a step's verdicts are short and every float comes back exactly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from weir.types import Reason, SampleVerdict, Verdict

_FIELDS = tuple(field.name for field in dataclasses.fields(SampleVerdict))


def pack(verdicts: Sequence[SampleVerdict]) -> str:
    """Verdicts as text; NaN and infinities are kept."""
    columns = [[getattr(verdict, name) for verdict in verdicts] for name in _FIELDS]
    return json.dumps(columns, separators=(",", ":"))


def unpack(text: str) -> tuple[SampleVerdict, ...]:
    """The verdicts that ``pack`` wrote."""
    rows = zip(*json.loads(text), strict=True)
    return tuple(SampleVerdict(Verdict(verdict), Reason(reason), *numbers) for verdict, reason, *numbers in rows)
