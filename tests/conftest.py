"""What every test relies on: one torch thread, and no setting of the developer's own."""

from __future__ import annotations

import os

# Before anything imports torch: several workers with a pool of threads each are slower than one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in [name for name in os.environ if name.startswith("WEIR_")]:
    del os.environ[name]
