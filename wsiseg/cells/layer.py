"""CellBatch: cells as columns, the currency of every exporter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CellBatch"]


@dataclass(frozen=True, slots=True)
class CellBatch:
    """N cells, in canonical order (see ``canonical_order``)."""

    id: NDArray[np.str_]
    """(N,) UUIDs, the same in every run."""
    geometry: NDArray[Any]
    """(N,) shapely Polygon or MultiPolygon, level-0 px (x, y), rounded to 0.01 px, OGC-valid."""
    class_index: NDArray[np.int32]
    """(N,) index into ``classes``; -1: no class."""
    classes: tuple[str, ...]
    """Names of the classes."""
    measurements: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Column name (unit in the name) -> (N,) values; NaN where there is none."""
    nucleus: NDArray[Any] | None = None
    """(N,) shapely nuclei of whole cells, or None: the geometries are the nuclei."""

    def __len__(self) -> int:
        return len(self.id)
