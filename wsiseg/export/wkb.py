"""Well-known binary of many polygons in one buffer (OGC 06-103r4, 8.2), little-endian."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.export.rings import MULTIPOLYGON, PART, POLYGON, Rings
from wsiseg.export.texts import Texts, of_width, woven

__all__ = ["wkb_of"]

_HEADER = np.dtype([("order", "u1"), ("type", "<u4"), ("count", "<u4")])  # packed: 9 bytes
_LITTLE_ENDIAN = 1


def wkb_of(geometry: NDArray[Any]) -> Texts:
    """WKB of Polygons and MultiPolygons (N,), none missing or empty; what GEOS would write."""
    rings = Rings.of(geometry)
    shells = np.flatnonzero(rings.begins >= PART)
    counts = np.diff(np.append(shells, len(rings.begins)))
    polygons = _headers(shapely.GeometryType.POLYGON, counts)
    multi = _headers(shapely.GeometryType.MULTIPOLYGON, shapely.get_num_geometries(geometry))
    vertices = of_width(np.diff(rings.offsets).astype("<u4"))
    points = rings.xy.astype("<f8", copy=False).ravel().view(np.uint8)
    columns = [
        _at(multi, rings.begins >= POLYGON).where(rings.begins == MULTIPOLYGON),
        _at(polygons, rings.begins >= PART).where(rings.begins >= PART),
        vertices,
        Texts(points, 16 * rings.offsets[:-1], 16 * rings.offsets[1:]),
    ]
    return woven(columns).grouped(rings.geometries)


def _headers(kind: int, counts: NDArray[np.integer]) -> Texts:
    headers = np.empty(len(counts), dtype=_HEADER)
    headers["order"], headers["type"], headers["count"] = _LITTLE_ENDIAN, kind, counts
    return of_width(headers)


def _at(headers: Texts, begins: NDArray[np.bool_]) -> Texts:
    """For each ring the header of what it lies in."""
    index = np.cumsum(begins) - 1
    return Texts(headers.data, headers.starts[index], headers.stops[index])
