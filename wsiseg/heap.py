"""Freed memory: what the C library keeps of it, and when it is handed back to the system.

Does nothing with C libraries other than glibc.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

__all__ = ["keep_freed_memory", "trim"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 1 << 30
_LARGEST = 32 << 20  # bytes, the most that glibc takes


@cache
def keep_freed_memory() -> None:
    """Keep what tensors leave behind for the next forward.

    Else each tensor is mapped, and its pages are cleared, anew: forwards take 1.65 times as long
    in dask's workers, whose environment sets the thresholds low, and 1.03 times elsewhere.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _LARGEST)


def trim() -> None:
    """Hand back what is kept now: after a stage, such as that of a whole slide's overview."""
    if malloc_trim := _glibc("malloc_trim"):
        malloc_trim(0)


def _glibc(name: str) -> Any:
    """A function of glibc; None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
