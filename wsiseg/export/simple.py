"""Rings that are simple beyond doubt: most outlines need no topology built to know it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsiseg.jit import kernel

__all__ = ["simple_rings"]

_MOST = 256  # edges; all pairs are looked at, and from here on GEOS is as fast
# an orientation larger than this times its terms has the right sign (Shewchuk 1997, DCG 18, 4.3)
_CERTAIN = (3 + 16 * 2.0**-53) * 2.0**-53


def simple_rings(xy: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(R,) whether no two edges of a ring touch but where one follows the other.

    Ring i has the vertices (V, 2) ``offsets[i]:offsets[i + 1]``, finite, the first repeated at the
    end, none so small that products vanish. True is certain, for these very float64 numbers; False
    is a ring to be looked at closely.
    """
    return _simple(np.ascontiguousarray(xy), offsets)


@kernel
def _simple(xy: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    simple = np.zeros(offsets.size - 1, dtype=np.bool_)
    boxes = np.empty((4, _MOST), dtype=np.float64)
    for ring in range(simple.size):
        first, edges = offsets[ring], offsets[ring + 1] - offsets[ring] - 1
        if edges < 3 or edges > _MOST:
            continue
        last = first + edges
        if xy[first, 0] != xy[last, 0] or xy[first, 1] != xy[last, 1]:
            continue
        for i in range(edges):
            a, b = first + i, first + i + 1
            boxes[0, i], boxes[1, i] = min(xy[a, 0], xy[b, 0]), max(xy[a, 0], xy[b, 0])
            boxes[2, i], boxes[3, i] = min(xy[a, 1], xy[b, 1]), max(xy[a, 1], xy[b, 1])
        simple[ring] = _turns(xy, first, edges) and _keeps_clear(xy, first, edges, boxes)
    return simple


@kernel
def _turns(xy: NDArray[np.float64], first: int, edges: int) -> bool:
    """Whether no edge is without length or goes back on the one before."""
    for i in range(edges):
        a, b, c = first + (i - 1) % edges, first + i, first + i + 1
        if xy[b, 0] == xy[c, 0] and xy[b, 1] == xy[c, 1]:
            return False
        ahead = (xy[b, 0] - xy[a, 0]) * (xy[c, 0] - xy[b, 0])
        ahead += (xy[b, 1] - xy[a, 1]) * (xy[c, 1] - xy[b, 1])
        if ahead <= 0 and _side(xy, a, b, c) == 0:
            return False
    return True


@kernel
def _keeps_clear(
    xy: NDArray[np.float64], first: int, edges: int, boxes: NDArray[np.float64]
) -> bool:
    """Whether edges that do not follow each other have nothing in common."""
    for i in range(edges - 2):
        left, right, low, high = boxes[0, i], boxes[1, i], boxes[2, i], boxes[3, i]
        for j in range(i + 2, edges - (i == 0)):
            apart = (boxes[0, j] > right) | (boxes[1, j] < left)
            apart |= (boxes[2, j] > high) | (boxes[3, j] < low)
            if not apart and not _on_one_side(xy, first + i, first + j):
                return False
    return True


@kernel
def _on_one_side(xy: NDArray[np.float64], i: int, j: int) -> bool:
    """Whether of the edges that begin at ``i`` and ``j`` one lies on one side of the other."""
    one, other = _side(xy, i, i + 1, j), _side(xy, i, i + 1, j + 1)
    if one * other > 0:
        return True
    one, other = _side(xy, j, j + 1, i), _side(xy, j, j + 1, i + 1)
    return one * other > 0


@kernel
def _side(xy: NDArray[np.float64], a: int, b: int, c: int) -> int:
    """On which side of the line from ``a`` to ``b`` the vertex ``c`` lies, 1 or -1; 0: in doubt."""
    left = (xy[a, 0] - xy[c, 0]) * (xy[b, 1] - xy[c, 1])
    right = (xy[a, 1] - xy[c, 1]) * (xy[b, 0] - xy[c, 0])
    bound = _CERTAIN * (abs(left) + abs(right))
    if left - right > bound:
        return 1
    return -1 if right - left > bound else 0
