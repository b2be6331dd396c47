"""How many threads the numerical libraries use: settled once, before they are loaded.

PyTorch's OpenMP workers spin while they wait. On a small or shared machine they then starve each other, and a solve
that takes a fraction of a second alone can take minutes. One thread avoids that and costs little on up to four cores;
above, half of the cores work, without spinning. Whoever sets an OpenMP variable keeps the choice.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_USERS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_DYNAMIC", "GOMP_SPINCOUNT")


def settle_threads(environ: MutableMapping[str, str], cores: int | None = None) -> None:
    """Set `OMP_NUM_THREADS` and `GOMP_SPINCOUNT` unless any OpenMP variable is set already."""
    if any(name in environ for name in _USERS):
        return
    count = cores or os.cpu_count() or 1
    environ["OMP_NUM_THREADS"] = "1" if count <= 4 else str(min(8, count // 2))
    environ["GOMP_SPINCOUNT"] = "0"
