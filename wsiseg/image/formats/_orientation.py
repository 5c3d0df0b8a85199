"""TIFF orientation: from the pixels as stored to the pixels as they are meant to be seen.

TIFF 6.0, tag 274. Values 5 to 8 swap rows and columns, so shapes, tiles and pixel sizes swap too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.image.level import Level

__all__ = ["oriented", "oriented_pair"]

Pair = TypeVar("Pair", tuple[int, int], tuple[float, float])

# tag value -> (transpose, then flip y, then flip x) that turns stored into seen
STEPS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def oriented_pair(pair: Pair, orientation: int) -> Pair:
    """(y, x) of the stored image as (y, x) of the image as seen."""
    return (pair[1], pair[0]) if STEPS[orientation][0] else pair


def oriented(level: Level, orientation: int) -> Level:
    """``level``, which reads pixels as stored, as a level of the image as seen.

    ``orientation`` is the tag's value; 0 and what the standard does not know count as 1.
    """
    transpose, *flip = STEPS.get(orientation, STEPS[1])
    if not transpose and not any(flip):
        return level
    shape = oriented_pair(level.shape, orientation)

    def read(box: Box) -> NDArray[np.uint8]:
        start, stop = list(box.start), list(box.stop)
        for axis in (0, 1):
            if flip[axis]:
                start[axis] = shape[axis] - box.stop[axis]
                stop[axis] = shape[axis] - box.start[axis]
        if transpose:
            start.reverse()
            stop.reverse()
        pixels = level.reader(Box(tuple(start), tuple(stop)))
        if transpose:
            pixels = pixels.transpose(1, 0, 2)
        steps = tuple(slice(None, None, -1 if f else 1) for f in flip)
        return np.ascontiguousarray(pixels[steps])

    return replace(
        level,
        shape=shape,
        tile=oriented_pair(level.tile, orientation),
        downsample=oriented_pair(level.downsample, orientation),
        reader=read,
    )
