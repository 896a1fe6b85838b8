"""What files beside a database need of the system: names that outlive a crash, and when a disk is full."""

from __future__ import annotations

import os
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path

NO_SPACE = (ENOSPC, EDQUOT, EFBIG)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
