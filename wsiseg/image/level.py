"""Level and Contents: what the reader of a format hands over, and how levels are related."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.pulse import beat

__all__ = ["DECODE_ERRORS", "Contents", "Level", "level_downsample"]

Reader = Callable[[Box], NDArray[np.uint8]]

# decoders raise what they like on damaged bytes (SyntaxError, struct.error, ...); all of it is
# turned into UnreadableSlideError where it meets them, and nothing is swallowed
DECODE_ERRORS = (Exception,)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide."""

    shape: tuple[int, int]
    """(h, w) px."""
    downsample: tuple[float, float]
    """Level-0 px per px of this level, (y, x), >= 1."""
    reader: Reader = field(repr=False)
    """Pixels (h, w, 3) uint8 of a box inside the level; thread-safe."""
    tile: tuple[int, int] = (512, 512)
    """(h, w) px of what the file stores in one piece; the best unit to read by."""
    holes: int = 0
    """Number of tiles that the file leaves out on purpose; they are read as white."""

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Pixels ``(*box.shape, 3)``, white outside the level."""
        inside = box.clip(self.shape)
        if inside == box and not box.empty:
            pixels = self.reader(box)
            beat()
            return pixels
        out = np.full((*box.shape, 3), 255, dtype=np.uint8)
        if not inside.empty:
            out[inside.slices(box.start)] = self.reader(inside)
            beat()
        return out


@dataclass(frozen=True, slots=True)
class Contents:
    """What a format's reader found in a file; a Slide is made of it."""

    format: str
    """Name of the format, such as "aperio" or "ome-tiff"."""
    levels: tuple[Level, ...]
    """Finest first."""
    mpp: tuple[float, float] | None = None
    """(y, x) µm per level-0 px as reported, believable or not; None: not reported."""
    mpp_note: str = ""
    """Where the number comes from, or why there is none."""
    objective: float | None = None
    """Nominal magnification."""
    vendor: str | None = None
    """Maker of the scanner or writer of the file."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the file."""
    associated: Mapping[str, Callable[[], NDArray[np.uint8]]] = field(default_factory=dict)
    """Label, macro and the like: name -> a call that reads it as (h, w, 3)."""
    scene: int = 0
    scenes: tuple[str, ...] = ("0",)
    z: int = 0
    z_count: int = 1
    close: Callable[[], None] = field(default=lambda: None, repr=False)


def level_downsample(full: tuple[int, int], level: tuple[int, int]) -> tuple[float, float]:
    """Level-0 px per level px, (y, x).

    An integer n for both axes where the level's shape is that of level 0 over n, rounded down,
    up or to the nearest (the last row or column of a pyramid is often cut), otherwise the ratio
    of the shapes.
    """
    n = max(1, round(max(f / k for f, k in zip(full, level, strict=True))))
    for whole in sorted({n, max(1, round(min(f / k for f, k in zip(full, level, strict=True))))}):
        fits = (
            k in {floor(f / whole), ceil(f / whole), round(f / whole)}
            for f, k in zip(full, level, strict=True)
        )
        if all(fits):
            return (float(whole), float(whole))
    y, x = (max(1.0, f / k) for f, k in zip(full, level, strict=True))
    return (y, x)
