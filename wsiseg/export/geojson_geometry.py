"""Geometry objects of GeoJSON into shapely polygons, many at a time, every ring checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

__all__ = ["has_area", "outlines_of"]

_AREAL = ("Polygon", "MultiPolygon", "GeometryCollection")
_OTHERS = ("Point", "MultiPoint", "LineString", "MultiLineString")
_ELLIPSE_SIDES = 128

Numbered = tuple[int, dict[str, Any]]
ErrorFor = Callable[[int, str], Exception]


def has_area(geometry: Any) -> bool:
    """Whether a GeoJSON geometry can have an area; a broken one counts, so that it is reported."""
    if not isinstance(geometry, dict):
        return True
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        members = geometry.get("geometries")
        return not isinstance(members, list) or any(map(has_area, members))
    return kind not in _OTHERS


def outlines_of(features: Sequence[Numbered], key: str, error: ErrorFor) -> NDArray[Any]:
    """(N,) Polygons and MultiPolygons of the geometry under ``key`` of each numbered feature.

    Rings must be closed and have at least four finite positions, of which x and y are used.
    ``error(number, what)`` makes the exception for a feature that is broken.
    """
    rings: list[list[Any]] = []
    rings_of: list[int] = []  # per polygon
    polygons_of: list[int] = []  # per feature
    for number, feature in features:
        before = len(rings_of)
        try:
            for polygon in _polygons(feature.get(key)):
                rings_of.append(len(polygon))
                rings.extend(polygon)
        except _BrokenError as broken:
            raise error(number, str(broken)) from None
        polygons_of.append(len(rings_of) - before)
    numbers = [number for number, _ in features]
    owner = np.repeat(np.arange(len(features)), polygons_of)
    numbers_of_rings = np.repeat(np.asarray(numbers, dtype=np.int64)[owner], rings_of)
    xy, offsets = _coordinates(rings, numbers_of_rings, error)
    parts = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, xy, (offsets, np.cumsum([0, *rings_of]))
    )
    out = _assembled(parts, owner, np.asarray(polygons_of, dtype=np.int64))
    for row, (_, feature) in enumerate(features):
        if feature[key].get("isEllipse") is True:
            out[row] = _ellipse(out[row])
    return out


class _BrokenError(Exception):
    """What is wrong with one geometry."""


def _polygons(geometry: Any) -> Iterator[list[Any]]:
    """Lists of rings, at least one, of a geometry with an area."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection":
        members = geometry.get("geometries")
        for member in members if isinstance(members, list) else [None]:
            if has_area(member):
                yield from _polygons(member)
        return
    if kind not in _AREAL:
        raise _BrokenError(f"expected a geometry, got {str(geometry)[:60]}")
    coordinates = geometry.get("coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise _BrokenError(f"a {kind} without coordinates")
    for polygon in polygons:
        if not isinstance(polygon, list) or not polygon:
            raise _BrokenError(f"a {kind} without rings")
        if not all(isinstance(ring, list) for ring in polygon):
            raise _BrokenError(f"a ring of a {kind} is not an array of positions")
        yield polygon


def _coordinates(
    rings: list[list[Any]], numbers: NDArray[np.int64], error: ErrorFor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(V, 2) vertices of all rings, and the (R + 1,) offsets of the rings; checked."""
    lengths = np.fromiter(map(len, rings), np.int64, len(rings))
    short = np.flatnonzero(lengths < 4)
    if short.size:
        what = f"a ring needs at least 4 positions, got {lengths[short[0]]}"
        raise error(int(numbers[short[0]]), what)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    xy = _as_array([position for ring in rings for position in ring])
    if xy is None:
        xy = _one_by_one(rings, numbers, error)
    _check(xy, offsets, numbers, error)
    return xy, offsets


def _as_array(positions: list[Any]) -> NDArray[np.float64] | None:
    """(V, 2) of pairs of numbers; None where it is not that simple."""
    if not positions:
        return np.empty((0, 2))
    try:
        xy = np.array(positions)
    except ValueError:
        return None
    plain = xy.dtype.kind in "iuf" and xy.ndim == 2 and xy.shape[1] >= 2
    return np.ascontiguousarray(xy[:, :2], dtype=np.float64) if plain else None


def _one_by_one(
    rings: list[list[Any]], numbers: NDArray[np.int64], error: ErrorFor
) -> NDArray[np.float64]:
    """Positions of mixed length, or the error that names the first one that is none."""
    out = []
    for ring, number in zip(rings, numbers.tolist(), strict=True):
        for position in ring:
            pair = _as_array([position]) if isinstance(position, list) else None
            if pair is None:
                raise error(number, f"expected a position [x, y], got {str(position)[:60]}")
            out.append(pair)
    return np.concatenate(out)


def _check(
    xy: NDArray[np.float64], offsets: NDArray[np.int64], numbers: NDArray[np.int64], error: ErrorFor
) -> None:
    bad = np.flatnonzero(~np.isfinite(xy).all(axis=1))
    if bad.size:
        ring = int(np.searchsorted(offsets, bad[0], side="right")) - 1
        raise error(int(numbers[ring]), f"a coordinate is not finite: {xy[bad[0]].tolist()}")
    first, last = xy[offsets[:-1]], xy[offsets[1:] - 1]
    unclosed = np.flatnonzero((first != last).any(axis=1))
    if unclosed.size:
        ring = int(unclosed[0])
        ends = f"{first[ring].tolist()} and {last[ring].tolist()}"
        raise error(int(numbers[ring]), f"a ring is not closed: it starts and ends at {ends}")


def _assembled(
    parts: NDArray[Any], owner: NDArray[np.int64], count: NDArray[np.int64]
) -> NDArray[Any]:
    """One Polygon or MultiPolygon per feature of its parts."""
    single = count == 1
    out = np.full(len(count), None, dtype=object)
    out[single] = parts[single[owner]]
    for row in np.flatnonzero(~single):
        out[row] = shapely.multipolygons(parts[owner == row])
    return out


def _ellipse(outline: Any) -> Any:
    """The ellipse in the bounding box: all that QuPath reads of an outline with ``isEllipse``."""
    xmin, ymin, xmax, ymax = shapely.bounds(outline)
    turn = np.linspace(0, 2 * np.pi, _ELLIPSE_SIDES, endpoint=False)
    x = (xmin + xmax) / 2 + (xmax - xmin) / 2 * np.cos(turn)
    y = (ymin + ymax) / 2 + (ymax - ymin) / 2 * np.sin(turn)
    return shapely.polygons(np.stack([x, y], axis=1))
