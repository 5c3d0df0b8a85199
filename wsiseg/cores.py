"""How many cores there are to use."""

from __future__ import annotations

import os
from math import ceil

from wsiseg.limits import cores_limit

__all__ = ["cores"]


def cores() -> int:
    """Cores that this process may use, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    there = len(affinity(0)) if affinity else os.cpu_count() or 1
    limit = cores_limit()
    return max(1, min(there, ceil(limit)) if limit is not None else there)
