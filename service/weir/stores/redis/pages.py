"""Cursors of pages: the number of the last thing on the page before, in the order of arrival."""

from __future__ import annotations

from weir.errors import InvalidInput

SCAN = 500
"""How many things a page looks at in one go, or a script changes."""


def number(cursor: str | None) -> int:
    """The number that a page goes on from; raises InvalidInput for what no page gave."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 16):  # scores are exact up to there
        raise InvalidInput("cursor", cursor, "the cursor that came with the page before")
    return int(cursor)
