"""What the garbage collector of a serving process goes through."""

from __future__ import annotations

import gc

from weir.api.garbage import spare_what_stays


def test_what_was_there_is_never_gone_through_again_and_what_comes_is() -> None:
    there: list[object] = [object()]
    try:
        spare_what_stays()
        came: list[object] = [object()]
        gone_through = {id(found) for found in gc.get_objects()}
    finally:
        gc.unfreeze()
    assert id(there) not in gone_through
    assert id(came) in gone_through
