"""Numerics class: within it the same input gives the same bits, so it is a part of the key.

Device kind, precision, instruction set, and versions of the libraries that read and compute. On
a CPU a forward uses one thread: 1 and 2 threads were measured to differ in the last bit of fp32.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from wsiseg import __version__
from wsiseg.jit import instruction_set
from wsiseg.model.base import Model

__all__ = ["ALGORITHM", "numerics_class", "software"]

ALGORITHM = 2
"""Raised whenever reading, tiling, decoding or tracing gives other cells than before."""

_LIBRARIES = ("numpy", "numba", "opencv-python-headless", "imagecodecs", "tifffile", "pillow")
_READERS = ("openslide-bin", "zarr")


def numerics_class(model: Model | None) -> str:
    """Such as ``x86_64-avx512f numpy-2.4.6 ... cpu-fp32-torch2.13``: what bits may depend on.

    A model adds what its own bits depend on as the attribute ``numerics``; None: of none.
    """
    libraries = " ".join(f"{name}-{_version(name)}" for name in (*_LIBRARIES, *_READERS))
    own = getattr(model, "numerics", "")
    return f"{platform.machine()}-{instruction_set()} {libraries} {own}".strip()


def software() -> dict[str, str | int]:
    """What computes, whatever the model: our version, and ``ALGORITHM``."""
    return {"wsiseg": __version__, "algorithm": ALGORITHM}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # another build of it, such as a system library
        return "unknown"
