"""Numerics class: within it the same input gives the same bits, so it is a part of the key.

Device kind, precision, instruction set and, for networks, the torch version. On a CPU a forward
uses one thread: 1 and 2 threads were measured to differ in the last bit of fp32.
"""

from __future__ import annotations

import platform
from importlib.metadata import version

from wsiseg.jit import instruction_set
from wsiseg.model.base import Model

__all__ = ["numerics_class"]


def numerics_class(model: Model) -> str:
    """Such as ``x86_64-avx512f numpy-2.4 opencv-5.0 cpu-fp32-torch2.13``.

    A model adds what its own bits depend on as the attribute ``numerics``.
    """
    libraries = f"numpy-{_minor('numpy')} opencv-{_minor('opencv-python-headless')}"
    own = getattr(model, "numerics", "")
    return f"{platform.machine()}-{instruction_set()} {libraries} {own}".strip()


def _minor(package: str) -> str:
    return ".".join(version(package).split(".")[:2])
