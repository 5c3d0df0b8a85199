"""Runs of pixels into exact pixel-edge outlines: the one place where (row, col) becomes (x, y).

Each run has a left and a right vertical edge. On the line between two rows of pixels the ends of
those edges are paired from left to right by horizontal edges, and walking along the pairs gives the
rings: O(runs) time and memory, whatever the size of the object. Where two pixels of an object
touch only at a corner, the pairing keeps to the pixel outside, so a hole that touches the outline
at a corner becomes a ring of its own and every ring is simple (OGC-valid).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.objects import Objects
from wsiseg.errors import SpaceError
from wsiseg.jit import kernel

__all__ = ["Outlines", "outlines"]


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons as ragged arrays, closed rings, the shell first (counter-clockwise), then holes."""

    xy: NDArray[Any]
    """(V, 2) vertices (x, y), corner-based px."""
    rings: NDArray[np.int64]
    """(R + 1,) offsets into ``xy``."""
    polygons: NDArray[np.int64]
    """(N + 1,) offsets into ``rings``."""

    def scaled(self, scale_xy: tuple[float, float]) -> Outlines:
        """In px of another lattice, rounded to 0.01 px.

        Rounding is monotone along each axis and edges are axis-parallel, so rings stay valid.
        """
        return Outlines(np.round(self.xy * np.asarray(scale_xy), 2), self.rings, self.polygons)

    def to_shapely(self) -> NDArray[Any]:
        """(N,) shapely Polygons."""
        import shapely

        kind = shapely.GeometryType.POLYGON
        xy = np.asarray(self.xy, dtype=np.float64)
        return np.asarray(shapely.from_ragged_array(kind, xy, (self.rings, self.polygons)))


def outlines(objects: Objects) -> Outlines:
    """Outlines in lattice px of 2-D face-connected ``objects``; area equals the pixel count."""
    if objects.ndim != 2:
        raise SpaceError(f"outlines are traced in 2-D, got objects of {objects.ndim} axes")
    return Outlines(*_trace(np.ascontiguousarray(objects.runs), objects.offsets))


@kernel
def _pair_line(
    runs: NDArray[np.int32],
    above: tuple[int, int],
    below: tuple[int, int],
    base: int,
    link: NDArray[np.int64],
) -> None:
    """Pair the edge ends on the line between the runs ``above`` and ``below`` (half-open ranges).

    Edge 2k is the left and 2k + 1 the right edge of run ``base + k``; end 2e is the top and
    2e + 1 the bottom of edge e. ``link[end]`` is the end it leads to; -1 - end if straight on.
    """
    i, i_stop = 2 * (above[0] - base), 2 * (above[1] - base)
    j, j_stop = 2 * (below[0] - base), 2 * (below[1] - base)
    waiting = -1
    while i < i_stop or j < j_stop:
        xi = xj = np.int64(1) << 40
        if i < i_stop:
            xi = runs[base + i // 2, 1] + (i % 2) * runs[base + i // 2, 2]
        if j < j_stop:
            xj = runs[base + j // 2, 1] + (j % 2) * runs[base + j // 2, 2]
        if xi == xj and i % 2 == j % 2:
            link[2 * i + 1] = -1 - 2 * j
            link[2 * j] = -1 - (2 * i + 1)
            i += 1
            j += 1
            continue
        if xi < xj or (xi == xj and i % 2 == 0):  # at a corner the left edge comes first
            end = 2 * i + 1
            i += 1
        else:
            end = 2 * j
            j += 1
        if waiting < 0:
            waiting = end
        else:
            link[waiting] = end
            link[end] = waiting
            waiting = -1


@kernel
def _link_object(runs: NDArray[np.int32], a: int, b: int, link: NDArray[np.int64]) -> None:
    above = (a, a)
    first = a
    while first < b:
        stop = first
        while stop < b and runs[stop, 0] == runs[first, 0]:
            stop += 1
        _pair_line(runs, above, (first, stop), a, link)
        above = (first, stop)
        first = stop
    _pair_line(runs, above, (b, b), a, link)


@kernel
def _walk(
    runs: NDArray[np.int32],
    base: int,
    start: int,
    link: NDArray[np.int64],
    seen: NDArray[np.bool_],
    xy: NDArray[np.int32],
    n: int,
) -> int:
    """Append the closed ring through edge ``start`` to ``xy`` at ``n``; return the new length."""
    first = n
    edge = start
    while not seen[edge]:
        seen[edge] = True
        end = 2 * edge + edge % 2  # left edges are walked up, right edges down
        to = link[end]
        if to < 0:
            edge = (-1 - to) // 2
            continue
        for terminal in (end, to):
            e = terminal // 2
            k = base + e // 2
            xy[n, 0] = runs[k, 1] + (e % 2) * runs[k, 2]
            xy[n, 1] = runs[k, 0] + terminal % 2
            n += 1
        edge = to // 2
    xy[n, 0] = xy[first, 0]
    xy[n, 1] = xy[first, 1]
    return n + 1


@kernel
def _trace(
    runs: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    longest = 0
    for i in range(offsets.size - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    link = np.empty(4 * longest, dtype=np.int64)
    seen = np.empty(2 * longest, dtype=np.bool_)
    xy = np.empty((5 * runs.shape[0], 2), dtype=np.int32)
    rings = np.zeros(runs.shape[0] + 1, dtype=np.int64)
    polygons = np.zeros(offsets.size, dtype=np.int64)
    n = 0
    r = 0
    for i in range(offsets.size - 1):
        a, b = offsets[i], offsets[i + 1]
        _link_object(runs, a, b, link)
        seen[: 2 * (b - a)] = False
        for edge in range(2 * (b - a)):
            if not seen[edge]:
                n = _walk(runs, a, edge, link, seen, xy, n)
                r += 1
                rings[r] = n
        polygons[i + 1] = r
    return xy[:n].copy(), rings[: r + 1].copy(), polygons
