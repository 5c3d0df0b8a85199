"""The one place that knows numba: compiled, cached, without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["has_feature", "instruction_set", "kernel"]

_SETS = ("amx-bf16", "avx512bf16", "avx512f", "avx2", "avx", "sve", "neon")

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile ``function`` at its first call; the machine code is cached on disk."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))


def instruction_set() -> str:
    """The widest instruction set of this machine that kernels and libraries may use."""
    return next((name for name in _SETS if has_feature(name)), "baseline")


def has_feature(name: str) -> bool:
    """Whether this machine's processor has what LLVM calls ``name``, such as "avx512vnni"."""
    from llvmlite.binding import get_host_cpu_features

    return bool(get_host_cpu_features().get(name))
