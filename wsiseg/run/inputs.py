"""What an evaluation reads: objects as a label image or as polygons, from files of many kinds."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.cells.layer import CellBatch
from wsiseg.cells.parquet import read_batches
from wsiseg.errors import InputFileError, UnreadableSlideError
from wsiseg.export.geojson_read import read_geojson
from wsiseg.image.formats._guards import check_ifd_chain

__all__ = ["LABEL_SUFFIXES", "POLYGON_SUFFIXES", "Polygons", "read_labels", "read_objects"]

LABEL_SUFFIXES = (".png", ".npy", ".tif", ".tiff")
POLYGON_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".parquet")


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """Objects as polygons."""

    geometry: NDArray[Any]
    """(N,) shapely Polygon or MultiPolygon, valid, level-0 px (x, y)."""
    class_name: NDArray[Any]
    """(N,) name of the class, None where an object has none."""
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


def read_labels(path: Path) -> NDArray[Any]:
    """A label image: integers, 0 background, one id per object; (y, x) or (z, y, x).

    PNG (8 or 16 bits, grey or palette: the index counts), ``.npy`` (memory-mapped), TIFF (one
    series, any integer type). Raises InputFileError where the file cannot be decoded, is RGB, holds
    no integers, negative ids, or fewer or more than 2 or 3 axes.
    """
    reader = {".png": _read_png, ".npy": _read_npy}.get(path.suffix.lower(), _read_tiff)
    labels = _decoded(reader, path)
    if labels.ndim == 3 and labels.shape[-1] in (3, 4) and labels.dtype == np.uint8:
        raise _not_labels(path, f"an RGB image of shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise _not_labels(path, f"{labels.dtype} values")
    if labels.ndim not in (2, 3):
        raise _not_labels(path, f"an array of shape {labels.shape}")
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise _not_labels(path, f"the id {labels.min()}")
    return labels


def _decoded(reader: Callable[[Path], NDArray[Any]], path: Path) -> NDArray[Any]:
    try:
        return reader(path)
    except InputFileError:
        raise
    # PIL says SyntaxError of a broken header; the rest is what damaged files make decoders say
    except (
        *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError),
        *(zlib.error, struct.error, MemoryError, RuntimeError, UnreadableSlideError),
    ) as error:
        raise InputFileError(
            f"{path}: not a readable label image: {error or type(error).__name__}; "
            "write it again as 16-bit PNG, .npy or TIFF"
        ) from error


def _not_labels(path: Path, got: str) -> InputFileError:
    return InputFileError(
        f"{path}: expected a label image (integers >= 0, 0 background, one id per object, 2-D or "
        f"3-D), got {got}; convert it, for instance with skimage.measure.label"
    )


def _read_png(path: Path) -> NDArray[Any]:
    from PIL.PngImagePlugin import PngImageFile

    # not Image.open: its limit of 179 million px is meant for photographs
    with PngImageFile(path) as image:  # type: ignore[no-untyped-call, unused-ignore]
        if image.mode in ("RGB", "RGBA", "LA"):
            raise _not_labels(path, f"a colour image ({image.mode})")
        if image.mode == "1":
            raise _not_labels(path, "a mask of one bit")
        return np.asarray(image)


def _read_npy(path: Path) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise _not_labels(path, "an archive of arrays (.npz)")
    return array


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    check_ifd_chain(path)
    with warnings.catch_warnings(), tifffile.TiffFile(path) as file:
        warnings.simplefilter("ignore")
        if len(file.series) != 1:
            raise _not_labels(path, f"{len(file.series)} images in one file")
        series = file.series[0]
        if "S" in series.axes:
            raise _not_labels(path, f"a colour image (axes {series.axes})")
        return np.asarray(series.asarray())


def _polygons(batches: Iterator[CellBatch]) -> Polygons:
    geometry, names = [np.zeros(0, object)], [np.zeros(0, object)]
    for batch in batches:  # keeps neither ids nor measurements
        geometry.append(np.asarray(batch.geometry, dtype=object))
        names.append(batch.class_names)
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
