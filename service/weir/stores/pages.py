"""What a page's cursor is: the number of its last thing, in the order of arrival."""

from __future__ import annotations

from weir.errors import InvalidInput


def number_of(cursor: str | None) -> int:
    """The number after which a page begins; raises InvalidInput for a cursor that no page gave."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise InvalidInput("cursor", cursor, "the cursor that came with the page before")
    return int(cursor)
