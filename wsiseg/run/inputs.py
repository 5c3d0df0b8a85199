"""What an evaluation reads: objects as a label image or as polygons, from files of many kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.cells.layer import CellBatch
from wsiseg.cells.parquet import read_batches
from wsiseg.errors import InputFileError
from wsiseg.export.geojson_read import read_geojson
from wsiseg.image.labels import LABEL_SUFFIXES, read_labels
from wsiseg.training.readers.classes import class_key

__all__ = ["POLYGON_SUFFIXES", "Polygons", "read_objects"]

POLYGON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".parquet")


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """Objects as polygons."""

    geometry: NDArray[Any]
    """(N,) shapely Polygon or MultiPolygon, valid, level-0 px (x, y)."""
    class_name: NDArray[Any]
    """(N,) name of the class as ``class_key`` has it, None where an object has none."""
    left_out: int
    """Number of geometries without a usable area, not among the N."""


def read_objects(path: Path) -> NDArray[Any] | Polygons:
    """A label image (see ``read_labels``), or the polygons of a GeoJSON or GeoParquet file.

    A run folder stands for its ``cells.parquet``.

    Of whole cells with nuclei the outline of the cell is taken. Outlines that are not valid are
    repaired as ``read_geojson`` does it. Raises InputFileError where the file is missing, of
    another kind, or not what its name says.
    """
    path = path / "cells.parquet" if (path / "run.json").is_file() else path
    name = path.name.lower()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputFileError(f"{path} {what}: expected a file of labels or polygons")
    if name.endswith(LABEL_SUFFIXES):
        return read_labels(path)
    if name.endswith(".parquet"):
        return _polygons(read_batches(path))
    if name.endswith(POLYGON_SUFFIXES):
        return _polygons(read_geojson(path))
    raise InputFileError(
        f"{path}: objects are read from {', '.join(LABEL_SUFFIXES)} (labels) and "
        f"{', '.join(POLYGON_SUFFIXES)} (polygons), got another kind of file"
    )


def _polygons(batches: Iterator[CellBatch]) -> Polygons:
    geometry, names = [np.zeros(0, object)], [np.zeros(0, object)]
    for batch in batches:  # keeps neither ids nor measurements
        geometry.append(np.asarray(batch.geometry, dtype=object))
        keys = [class_key(name) if name else None for name in batch.class_names]
        names.append(np.array([*keys, None], dtype=object)[:-1])
    outlines = _repaired(np.concatenate(geometry))
    sound = shapely.area(outlines) > 0
    left_out = int((~sound).sum())
    return Polygons(outlines[sound], np.concatenate(names)[sound], left_out)


def _repaired(geometry: NDArray[Any]) -> NDArray[Any]:
    """Valid polygons; None where there is none."""
    polygonal = np.isin(shapely.get_type_id(geometry), (3, 6))
    finite = np.isfinite(shapely.bounds(geometry).reshape(-1, 4)).all(axis=1)
    geometry = geometry.copy()
    geometry[~(polygonal & finite)] = None
    for row in np.flatnonzero(~shapely.is_valid(geometry) & ~shapely.is_missing(geometry)):
        whole = shapely.make_valid(geometry[row], method="structure", keep_collapsed=False)
        parts = shapely.get_parts(whole)
        parts = shapely.get_parts(parts[np.isin(shapely.get_type_id(parts), (3, 6))])
        geometry[row] = shapely.multipolygons(parts)
    return geometry
