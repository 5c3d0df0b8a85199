"""Objects of all regions in one canonical order, holding one row of regions at a time.

Rows of every file are ordered by the anchor's cell on a fixed grid of ``CELL`` level-0 px, then by
the anchor; never by region, so files are the same under any tiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.objects import Objects
from wsiseg.engine.stitch import Fragments, find_joins, joined_objects, whole_objects
from wsiseg.geometry import TileGrid

__all__ = ["CELL", "canonical", "in_canonical_order"]

CELL = 1024
"""Side, level-0 px, of a cell of the grid that orders rows."""

Load = Callable[[int], Fragments]


def in_canonical_order(
    load: Load, regions: Sequence[int], grid: TileGrid, scale: tuple[float, ...], sums: int
) -> Iterator[Objects]:
    """Every object once, in canonical order, in batches of rows of cells.

    ``load`` gives the fragments of a region by its number, ``scale`` level-0 px per lattice px.
    """
    joins = find_joins(((r, load(r)) for r in regions), grid.shape)
    waiting = joined_objects(((r, load(r)) for r in regions), joins, len(grid.shape), sums)
    per_row = int(np.prod(grid.counts[1:], dtype=np.int64))
    for row in range(grid.counts[0]):
        here = [r for r in regions if r // per_row == row]
        waiting = Objects.concatenate([waiting, *(whole_objects(load(r), joins, r) for r in here)])
        seen = min((row + 1) * grid.tile[0], grid.shape[0])
        # a cell row is complete when no later region can own an anchor in it
        complete = np.inf if row == grid.counts[0] - 1 else np.floor(seen * scale[0] / CELL)
        ready = _cells(waiting.anchors[:, :1], scale[:1])[:, 0] < complete
        if ready.any():
            yield canonical(waiting.take(ready), scale)
            waiting = waiting.take(~ready)


def canonical(objects: Objects, scale: Sequence[float]) -> Objects:
    """``objects`` ordered by the anchor's cell, then by the anchor, both in raster order."""
    cells = _cells(objects.anchors, scale)
    return objects.take(np.lexsort((*objects.anchors.T[::-1], *cells.T[::-1])))


def _cells(anchors: NDArray[np.int32], scale: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(np.floor(anchors * np.asarray(scale) / CELL))
