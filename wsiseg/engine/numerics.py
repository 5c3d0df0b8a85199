"""Numerics class: within it the same input gives the same bits, so it is a part of the key.

Device kind, precision, instruction set and, for networks, the torch version. On a CPU a forward
uses one thread: 1 and 2 threads were measured to differ in the last bit of fp32.
"""

from __future__ import annotations

import platform
from importlib.metadata import version

from wsiseg.model.base import Model

__all__ = ["instruction_set", "numerics_class"]

_LEVELS = ("AVX512_SPR", "AVX512_SKX", "AVX512F", "AVX2", "AVX", "SVE", "ASIMD", "NEON")


def numerics_class(model: Model) -> str:
    """Such as ``x86_64-avx512_skx numpy-2.4 opencv-5.0 cpu-fp32-torch2.13``.

    A model adds what its own bits depend on as the attribute ``numerics``.
    """
    libraries = f"numpy-{_minor('numpy')} opencv-{_minor('opencv-python-headless')}"
    own = getattr(model, "numerics", "")
    return f"{platform.machine()}-{instruction_set()} {libraries} {own}".strip()


def instruction_set() -> str:
    """The widest instruction set that the libraries may choose on this machine."""
    from numpy._core._multiarray_umath import __cpu_features__ as features

    return next((name.lower() for name in _LEVELS if features.get(name)), "baseline")


def _minor(package: str) -> str:
    return ".".join(version(package).split(".")[:2])
