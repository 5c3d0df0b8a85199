"""The rings of many polygons in one go, and what each begins and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

__all__ = ["HOLE", "MULTIPOLYGON", "PART", "POLYGON", "Rings"]

HOLE, PART, POLYGON, MULTIPOLYGON = range(4)
"""A ring begins (ends) nothing but itself; a part of a MultiPolygon; a geometry of either type."""


@dataclass(frozen=True, slots=True)
class Rings:
    """R rings of N geometries, in their order: of each part the shell, then its holes."""

    xy: NDArray[np.float64]
    """(V, 2) vertices."""
    offsets: NDArray[np.int64]
    """(R + 1,) ring i has the vertices ``offsets[i]:offsets[i + 1]``."""
    geometries: NDArray[np.int64]
    """(N + 1,) geometry i has the rings ``geometries[i]:geometries[i + 1]``, at least one."""
    begins: NDArray[np.int8]
    """(R,) the largest thing that begins with the ring."""
    ends: NDArray[np.int8]
    """(R,) the largest thing that ends with it."""

    @classmethod
    def of(cls, geometry: NDArray[Any]) -> Rings:
        """Of Polygons and MultiPolygons (N,), none missing or empty."""
        if not len(geometry):
            nothing = np.zeros(0, np.int8)
            return cls(np.zeros((0, 2)), _ZERO, _ZERO, nothing, nothing)
        multi = shapely.get_type_id(geometry) == shapely.GeometryType.MULTIPOLYGON
        parts, first = geometry, np.arange(len(geometry) + 1)
        if multi.any():
            parts, owner = shapely.get_parts(geometry, return_index=True)
            first = np.searchsorted(owner, first)
        counts = 1 + shapely.get_num_interior_rings(parts)
        polygons = np.concatenate((_ZERO, np.cumsum(counts)))
        geometries = polygons[first]
        kind = np.where(multi, MULTIPOLYGON, POLYGON)
        begins, ends = np.zeros((2, polygons[-1]), dtype=np.int8)
        begins[polygons[:-1]], ends[polygons[1:] - 1] = PART, PART
        begins[geometries[:-1]], ends[geometries[1:] - 1] = kind, kind
        offsets = np.concatenate((_ZERO, np.cumsum(_lengths(parts, counts))))
        return cls(shapely.get_coordinates(parts), offsets, geometries, begins, ends)


def _lengths(polygons: NDArray[Any], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """(R,) vertices of each ring of ``polygons``, which have ``counts`` rings each."""
    holed = counts > 1  # few: rings as objects are slow
    lengths = np.empty(int(counts.sum()), dtype=np.int64)
    of_holed = np.repeat(holed, counts)
    lengths[~of_holed] = shapely.get_num_coordinates(polygons[~holed])
    lengths[of_holed] = shapely.get_num_coordinates(shapely.get_rings(polygons[holed]))
    return lengths


_ZERO = np.zeros(1, dtype=np.int64)
