"""Twins: one object as two regions see it, for models that are not tile-invariant.

A LocalModel needs none of this: its links say the same in every region. A model that only decodes
whole labels may draw the same nucleus differently in two regions. Every pixel still belongs to the
one region whose core holds it, so nothing is there twice; what meets at a face is one object when
both regions agree on it: in the band around the face that both see, the piece of the one and the
piece of the other overlap by more than half of their union. A piece has at most one such twin, so
no order of arrival can matter. Errs towards leaving an object cut.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, Tile, TileGrid
from wsiseg.geometry.links import components, links_of

__all__ = ["VIEW_COLUMNS", "agreed", "views"]

VIEW_COLUMNS = 5
"""Columns of a view: region below the face, region above it, raster place, side, piece."""

BELOW, ABOVE = 0, 1


def views(labels: NDArray[np.int32], tile: Tile, grid: TileGrid) -> NDArray[np.int64]:
    """(S, 5) what ``labels`` over ``tile.read`` say in the bands around the inner faces."""
    found = [np.zeros((0, VIEW_COLUMNS), np.int64)]
    for axis in range(labels.ndim):
        if tile.core.start[axis] > 0:
            found.append(_view(labels, tile, grid, axis, ABOVE))
        if tile.core.stop[axis] < grid.shape[axis]:
            found.append(_view(labels, tile, grid, axis, BELOW))
    return np.concatenate(found)


def _view(
    labels: NDArray[np.int32], tile: Tile, grid: TileGrid, axis: int, side: int
) -> NDArray[np.int64]:
    """The band of one face, cut into pieces that hang together within it."""
    face = tile.core.start[axis] if side == ABOVE else tile.core.stop[axis]
    start, stop, below, above = (
        list(v) for v in (tile.core.start, tile.core.stop, tile.index, tile.index)
    )
    start[axis], stop[axis] = face - grid.halo, face + grid.halo
    below[axis], above[axis] = tile.index[axis] - side, tile.index[axis] + 1 - side
    band = Box(tuple(start), tuple(stop)).clip(grid.shape)
    pieces = components(links_of(labels[band.slices(tile.read.start)]))
    at = np.argwhere(pieces > 0)
    rows = np.empty((len(at), VIEW_COLUMNS), np.int64)
    rows[:, 0], rows[:, 1], rows[:, 3] = grid.number(below), grid.number(above), side
    rows[:, 2] = np.ravel_multi_index(tuple((at + np.array(band.start)).T), grid.shape)
    rows[:, 4] = pieces[tuple(at.T)]
    return rows


def agreed(views: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(E,) which ``edges`` join pieces that are twins.

    ``views`` (S, 5) of all regions; an edge is the region below, the region above and the raster
    place of the pixel above the face that the region below takes for its own object.
    """
    low, high = views[views[:, 3] == BELOW], views[views[:, 3] == ABOVE]
    every = np.concatenate([low[:, :3], high[:, :3], edges])
    _, index = np.unique(every, axis=0, return_inverse=True)
    at_low, at_high, at_edge = np.split(index.ravel(), [len(low), len(low) + len(high)])
    piece = np.zeros((int(index.max(initial=-1)) + 1, 2), np.int64)  # 0: background
    piece[at_low, BELOW], piece[at_high, ABOVE] = low[:, 4], high[:, 4]
    faces = np.zeros((len(piece), 2), np.int64)
    faces[index.ravel()] = every[:, :2]
    twin = _twin(faces, piece)
    return np.asarray(twin[at_edge])


def _twin(faces: NDArray[np.int64], piece: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,) of each pixel of the bands, whether the two pieces that it lies in are twins."""
    keys = np.column_stack([faces, piece])
    pairs, of_pixel, both = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    sizes = []
    for side in (BELOW, ABOVE):
        _, of_pair = np.unique(pairs[:, [0, 1, 2 + side]], axis=0, return_inverse=True)
        sizes.append(np.bincount(of_pair.ravel(), weights=both)[of_pair.ravel()])
    twin = (pairs[:, 2:] > 0).all(axis=1) & (2 * both > sizes[BELOW] + sizes[ABOVE] - both)
    return np.asarray(twin[of_pixel.ravel()])
