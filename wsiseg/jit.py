"""The one place that knows numba: compiled, cached, without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile ``function`` at its first call; the machine code is cached on disk."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))
