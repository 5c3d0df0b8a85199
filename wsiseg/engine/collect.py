"""Objects of all regions in one canonical order, in batches, holding about one row of regions.

Rows of every file are ordered by the anchor's cell on a fixed grid of ``CELL`` level-0 px, then by
the anchor; never by region, so files are the same under any tiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.objects import Objects
from wsiseg.engine.stitch import Fragments, Gathering, Joins, find_joins, whole_objects
from wsiseg.geometry import TileGrid

__all__ = ["BATCH", "CELL", "canonical", "in_canonical_order"]

BATCH = 2_500
"""Objects of a batch, at most."""
CELL = 1024
"""Side, level-0 px, of a cell of the grid that orders rows."""

_TALL = 2  # rows of regions; an object of more would hold back all that comes after its anchor

Load = Callable[[int], Fragments]
Row = tuple[int, list[int]]


def in_canonical_order(
    load: Load, regions: Sequence[int], grid: TileGrid, scale: tuple[float, ...], sums: int
) -> Iterator[Objects]:
    """Every object once, in canonical order, in batches.

    ``load`` gives the fragments of a region by its number; it is asked twice for each, and a third
    time where an object reaches over more than two rows of regions. ``scale`` is level-0 px per
    lattice px.
    """
    ndim = len(grid.shape)
    rows = list(_rows(regions, grid))
    faces = ((stop, ((r, load(r)) for r in numbers)) for stop, numbers in rows)
    joins = find_joins(faces, grid.shape)
    tall = joins.heights(_per_row(grid)) > _TALL
    waiting, gathered = _Waiting(scale), Gathering(joins.only(~tall), ndim, sums)
    waiting.add(_gathered_now(load, joins.only(tall), ndim, sums))
    for stop, numbers in rows:
        for region in numbers:
            fragments = load(region)
            waiting.add(whole_objects(fragments, joins, region))
            gathered.add(region, fragments)
        waiting.add(gathered.completed())
        # a cell row is complete when no later region can own an anchor in it, and all that have
        # one there are whole
        complete = np.inf if stop == grid.shape[0] else np.floor(stop * scale[0] / CELL)
        partial = _cell_rows(gathered.anchors, scale).min(initial=np.inf)
        yield from waiting.released(min(complete, partial))


def canonical(objects: Objects, scale: Sequence[float]) -> Objects:
    """``objects`` ordered by the anchor's cell, then by the anchor, both in raster order."""
    return objects.take(_order(objects, scale))


class _Waiting:
    """Objects that are whole, by the row of cells that their anchors lie in."""

    def __init__(self, scale: Sequence[float]) -> None:
        self._scale = scale
        self._rows: dict[float, list[Objects]] = {}

    def add(self, objects: Objects) -> None:
        rows = _cell_rows(objects.anchors, self._scale)
        for row in np.unique(rows).tolist():
            self._rows.setdefault(row, []).append(objects.take(rows == row))

    def released(self, below: float) -> Iterator[Objects]:
        """Those in the rows before ``below``, in canonical order."""
        ready = sorted(row for row in self._rows if row < below)
        if ready:
            every = Objects.concatenate([part for row in ready for part in self._rows.pop(row)])
            order = _order(every, self._scale)
            for first in range(0, len(order), BATCH):
                yield every.take(order[first : first + BATCH])


def _gathered_now(load: Load, joins: Joins, ndim: int, sums: int) -> Objects:
    gathered = Gathering(joins, ndim, sums)
    for region in np.unique(joins.regions).tolist():
        gathered.add(region, load(region))
    return gathered.completed()


def _rows(regions: Sequence[int], grid: TileGrid) -> Iterator[Row]:
    """All rows of the grid: the first index beyond, and those of ``regions`` that lie in it."""
    of_row: dict[int, list[int]] = {}
    for region in regions:
        of_row.setdefault(region // _per_row(grid), []).append(region)
    for row in range(grid.counts[0]):
        yield min((row + 1) * grid.tile[0], grid.shape[0]), of_row.get(row, [])


def _per_row(grid: TileGrid) -> int:
    return int(np.prod(grid.counts[1:], dtype=np.int64))


def _order(objects: Objects, scale: Sequence[float]) -> NDArray[np.int64]:
    cells = _cells(objects.anchors, scale)
    return np.lexsort((*objects.anchors.T[::-1], *cells.T[::-1]))


def _cell_rows(anchors: NDArray[np.int32], scale: Sequence[float]) -> NDArray[np.float64]:
    return _cells(anchors[:, :1], scale[:1])[:, 0]


def _cells(anchors: NDArray[np.int32], scale: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(np.floor(anchors * np.asarray(scale) / CELL))
