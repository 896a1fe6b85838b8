"""The garbage collector of a process that serves."""

from __future__ import annotations

import gc


def spare_what_stays() -> None:
    """Let the collector never again go through what is there now: call it once, before the first request.

    Going through all that torch and the web framework have loaded takes a tenth of a second, in which every request
    waits, and deliveries make it happen about once a second.
    """
    gc.collect()
    gc.freeze()
