"""Overlaps of polygons: with other polygons by area, with a label image by pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsiseg.errors import InputFileError
from wsiseg.metrics.overlaps import CHUNK, Overlaps, label_sizes, sum_pairs

__all__ = ["Spans", "grid_overlaps", "pixel_spans", "polygon_overlaps"]

Geometries = NDArray[Any]
Indices = NDArray[np.intp]
Floats = NDArray[np.float64]
Pairs = tuple[Indices, Indices, Floats]

_BATCH = 1 << 15  # polygons intersected, or painted, together
_DECIMALS = 6  # of an area: hides the last bits of the overlay, so that ties stay ties


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Pixels of polygons as S spans along the last axis, ascending by (object, row, start)."""

    object: Indices
    """(S,) place of the polygon in its array."""
    row: Indices
    """(S,) row, px."""
    start: Indices
    """(S,) first column inside."""
    stop: Indices
    """(S,) first column beyond."""

    @property
    def length(self) -> Indices:
        """(S,) pixels of each span, > 0."""
        return np.asarray(self.stop - self.start)


def polygon_overlaps(truth: Geometries, pred: Geometries) -> Overlaps:
    """The table of two arrays of shapely (Multi)Polygons in one frame; sizes are areas.

    The id of a polygon is its place in its array plus 1. Areas are rounded to 1e-6 square units,
    and an intersection of area 0 (a shared edge) is none. Polygons of one side may overlap each
    other; then an area is counted for each of them, but once in the foreground.

    Raises InputFileError where a geometry is not a valid polygon with an area: repair it with
    ``shapely.make_valid`` first.
    """
    _check_polygons(truth, "truth")
    _check_polygons(pred, "prediction")
    truth, pred = _full_precision(truth), _full_precision(pred)
    rows, cols, size = _intersections(truth, pred)
    left, right = (_numbered(_area(side)) for side in (truth, pred))
    crowds = _crowds(truth, pred, (rows, cols))
    foreground = _foreground((truth, left[1]), (pred, right[1]), (rows, cols, size), crowds)
    return Overlaps.build(left, right, (rows, cols, size), foreground)


def grid_overlaps(labels: NDArray[Any], polygons: Geometries) -> tuple[Overlaps, Indices]:
    """The table of a label image (truth) and of polygons on its grid (prediction); sizes are px.

    Polygons are (x, y) in px of the 2-D image, corner-based, and own the pixels whose centres they
    hold (``pixel_spans``); parts beyond the image do not count. Also returns the places (L,) of
    the polygons that own a pixel at all: id i + 1 of the table is ``polygons[i]``.
    """
    if labels.ndim != 2:
        raise InputFileError(f"polygons lie on 2-D label images, got one of shape {labels.shape}")
    truth = label_sizes(labels)
    flat = labels.reshape(-1)
    covered = np.zeros(flat.size, np.bool_)
    sizes = np.zeros(len(polygons))
    pairs: list[Pairs] = [(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))]
    for first in range(0, len(polygons), _BATCH):
        spans = pixel_spans(polygons[first : first + _BATCH], labels.shape)
        for owner, pixel in _pixels(spans, labels.shape[1]):
            covered[pixel] = True
            sizes += np.bincount(owner + first, minlength=len(polygons))
            seen = flat[pixel] > 0
            rows = np.searchsorted(truth[0], flat[pixel[seen]].astype(np.uint64))
            pairs.append((rows, owner[seen] + first, np.ones(len(rows))))
            pairs = [_sum(pairs)]
    kept = np.flatnonzero(sizes)
    rows, cols, size = _sum(pairs)
    both = float(np.count_nonzero(covered & (flat > 0)))
    foreground = (float(truth[1].sum()), float(np.count_nonzero(covered)), both)
    pred = ((kept + 1).astype(np.uint64), sizes[kept])
    pair = (rows, np.searchsorted(kept, cols), size)
    return Overlaps.build(truth, pred, pair, foreground), kept


def pixel_spans(polygons: Geometries, shape: tuple[int, ...]) -> Spans:
    """Pixels of an image of ``shape`` (rows, columns) whose centres lie in each polygon.

    Pixel (r, c) covers [c, c+1) x [r, r+1) of (x, y), so its centre is (c + 1/2, r + 1/2). By the
    even-odd rule along rows, holes left out. A centre exactly on an outline belongs to the polygon
    on its right or below, so polygons that share an edge share no pixel.

    >>> spans = pixel_spans(np.array([shapely.box(0, 0, 2, 1)]), (5, 5))
    >>> spans.row, spans.start, spans.stop
    (array([0]), array([0]), array([2]))
    """
    owner, start, end = _edges(polygons)
    low, high = (_centre(y, shape[0]) for y in (start[:, 1], end[:, 1]))
    count = high - low
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + low[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    order = np.lexsort((x, row, owner[edge]))
    # an outline crosses the line of a row an even number of times: in, out, in, out
    column = _centre(x[order], shape[1]).reshape(-1, 2)
    keep = column[:, 0] < column[:, 1]
    at = edge[order[::2]][keep], row[order[::2]][keep]
    return Spans(owner[at[0]], at[1], column[keep, 0], column[keep, 1])


def _check_polygons(polygons: Geometries, side: str) -> None:
    # geometry types 3 and 6: Polygon and MultiPolygon
    good = np.isin(shapely.get_type_id(polygons), (3, 6)) & shapely.is_valid(polygons)
    good &= shapely.area(polygons) > 0
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        raise InputFileError(
            f"{int((~good).sum())} of {len(polygons)} {side} geometries are not valid polygons "
            f"with an area (first: number {bad}, {shapely.is_valid_reason(polygons[bad])}); "
            "repair them with shapely.make_valid or leave them out"
        )


def _full_precision(polygons: Geometries) -> Geometries:
    """Without the grid that ``shapely.set_precision`` leaves: overlays would snap to it."""
    if not shapely.get_precision(polygons).any():
        return polygons
    return np.asarray(shapely.set_precision(polygons, 0))


def _area(polygons: Geometries) -> Floats:
    return np.asarray(np.round(shapely.area(polygons), _DECIMALS), dtype=np.float64)


def _numbered(size: Floats) -> tuple[NDArray[np.uint64], Floats]:
    return np.arange(1, len(size) + 1, dtype=np.uint64), size


def _intersections(a: Geometries, b: Geometries) -> Pairs:
    """Pairs of polygons with a common area, and that area."""
    parts = [(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))]
    parts += list(_intersect_batches(a, b))
    rows, cols, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, cols, size


def _intersect_batches(a: Geometries, b: Geometries) -> Iterator[Pairs]:
    tree = shapely.STRtree(b)
    for first in range(0, len(a), _BATCH):
        rows, cols = tree.query(a[first : first + _BATCH], predicate="intersects")
        size = _area(shapely.intersection(a[rows + first], b[cols]))
        keep = size > 0
        yield rows[keep] + first, cols[keep], size[keep]


def _own_pairs(polygons: Geometries) -> tuple[Indices, Indices]:
    """Pairs of polygons of one side that share an area."""
    rows, cols, _ = _intersections(polygons, polygons)
    return rows[rows < cols], cols[rows < cols]


def _crowds(truth: Geometries, pred: Geometries, pairs: tuple[Indices, Indices]) -> Indices:
    """Number of the crowd of each true, then each predicted polygon; -1 in no crowd.

    A crowd is a group of polygons connected by common areas in which some of one side overlap
    each other: only there do the areas of pairs not add up to that of the foreground.
    """
    n = len(truth)
    own = [_own_pairs(truth), tuple(n + ends for ends in _own_pairs(pred))]
    start = np.concatenate([pairs[0], own[0][0], own[1][0]])
    end = np.concatenate([pairs[1] + n, own[0][1], own[1][1]])
    nodes = n + len(pred)
    graph = coo_array((np.ones(len(start), np.int8), (start, end)), shape=(nodes, nodes))
    group = connected_components(graph.tocsr(), directed=False)[1]
    crowded = np.unique(group[start[len(pairs[0]) :]])
    crowd = np.full(nodes, -1, np.intp)
    inside = np.isin(group, crowded)
    crowd[inside] = np.searchsorted(crowded, group[inside])
    return crowd


def _foreground(
    truth: tuple[Geometries, Floats],
    pred: tuple[Geometries, Floats],
    pairs: Pairs,
    crowds: Indices,
) -> tuple[float, float, float]:
    """Area of all truth, of all predictions and of both; pairs in a crowd are not simply added."""
    sides = crowds[: len(truth[0])], crowds[len(truth[0]) :]
    alone = sides[0][pairs[0]] < 0
    total = [truth[1][sides[0] < 0].sum(), pred[1][sides[1] < 0].sum(), pairs[2][alone].sum()]
    members = [_members(side) for side in sides]
    for crowd in range(int(crowds.max(initial=-1)) + 1):
        t = shapely.union_all(truth[0][members[0].get(crowd, [])])
        p = shapely.union_all(pred[0][members[1].get(crowd, [])])
        areas = float(shapely.area(t)), float(shapely.area(p))
        common = areas[0] + areas[1] - float(shapely.area(shapely.union(t, p)))
        total = [total[0] + areas[0], total[1] + areas[1], total[2] + common]
    return float(total[0]), float(total[1]), max(0.0, float(total[2]))


def _members(crowds: Indices) -> dict[int, Indices]:
    """Places of the polygons of each crowd of one side."""
    order = np.argsort(crowds, kind="stable")
    names, first = np.unique(crowds[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, first[1:]), strict=True)) if len(order) else {}


def _edges(polygons: Geometries) -> tuple[Indices, Floats, Floats]:
    """Owner (E,) of each edge of the outlines, and its upper and its lower end (E, 2), (x, y).

    Ordered by y, so that an edge crosses a row at the same x whichever way its ring runs.
    """
    parts, part_of = shapely.get_parts(polygons, return_index=True)
    rings, ring_of = shapely.get_rings(parts, return_index=True)
    points, point_of = shapely.get_coordinates(rings, return_index=True)
    joined = point_of[1:] == point_of[:-1]
    a, b = points[:-1][joined], points[1:][joined]
    down = (a[:, 1] <= b[:, 1])[:, None]
    owner = part_of[ring_of[point_of[:-1][joined]]]
    return owner.astype(np.intp), np.where(down, a, b), np.where(down, b, a)


def _centre(position: Floats, size: int) -> Indices:
    """First pixel whose centre is at or beyond a position, within [0, size]."""
    return np.asarray(np.clip(np.ceil(position - 0.5), 0, size), dtype=np.intp)


def _pixels(spans: Spans, width: int) -> Iterator[tuple[Indices, Indices]]:
    """Owner and flat index of each pixel of the spans, about ``CHUNK`` px at a time."""
    length = spans.length
    begin = spans.row * width + spans.start
    cuts = np.flatnonzero(np.diff(np.cumsum(length) // CHUNK)) + 1
    for part in np.split(np.arange(len(length)), cuts):
        n = length[part]
        step = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n)
        yield np.repeat(spans.object[part], n), np.repeat(begin[part], n) + step


def _sum(pairs: list[Pairs]) -> Pairs:
    """Each (row, col) once, with the sum of its sizes."""
    rows, cols, size = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return sum_pairs(rows, cols, [size])
