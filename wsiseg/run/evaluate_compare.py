"""Two layers of objects, labels or polygons, brought into one frame and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.metrics import Overlaps, centroids, count_overlaps, grid_overlaps, polygon_overlaps
from wsiseg.run.inputs import Polygons

__all__ = ["Compared", "Objects", "Points", "centres_of", "compare_objects"]

Objects = NDArray[Any] | Polygons
"""A label image or polygons."""
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Two layers of objects in one frame."""

    overlaps: Overlaps
    """Who overlaps whom."""
    truth_points: Points
    """(T, n) centroids in the order of ``overlaps.truth_id``, px, axes (z, y, x)."""
    pred_points: Points
    """(P, n) centroids in the order of ``overlaps.pred_id``."""
    truth_of: NDArray[np.intp]
    """(T,) id in the label image, or place among the polygons, of each true object."""
    pred_of: NDArray[np.intp]
    """(P,) the same of each predicted object."""
    outside: tuple[int, int] = (0, 0)
    """True and predicted polygons that own no pixel of the other side's label image."""


def compare_objects(truth: Objects, pred: Objects, names: tuple[Path, Path]) -> Compared:
    """Labels with labels and labels with polygons by pixels, polygons with polygons by area.

    ``names`` are the files, for messages. Raises InputFileError where two label images differ in
    shape, or polygons do not meet the image.
    """
    if isinstance(truth, Polygons) and isinstance(pred, Polygons):
        table = polygon_overlaps(truth.geometry, pred.geometry)
        places = np.arange(len(truth.geometry)), np.arange(len(pred.geometry))
        return Compared(table, centres_of(truth), centres_of(pred), *places)
    if isinstance(truth, Polygons):
        return _swapped(compare_objects(pred, truth, names[::-1]))
    if isinstance(pred, Polygons):
        return _on_grid(truth, pred, names)
    if truth.shape != pred.shape:
        raise InputFileError(
            f"{names[0]} is {_size(truth)} and {names[1]} is {_size(pred)}: expected one size; "
            "crop or resample (nearest neighbour) one of them to the other's pixels"
        )
    table = count_overlaps(truth, pred)
    ids = table.truth_id.astype(np.intp), table.pred_id.astype(np.intp)
    return Compared(table, centres_of(truth), centres_of(pred), *ids)


def centres_of(objects: Objects) -> Points:
    """(N, n) centroids, px, of labels in the order of their ids, or of polygons in theirs."""
    if not isinstance(objects, Polygons):
        return centroids(objects)[1]
    xy = shapely.get_coordinates(shapely.centroid(objects.geometry))
    return np.asarray(xy[:, ::-1], dtype=np.float64)


def _swapped(found: Compared) -> Compared:
    return Compared(
        found.overlaps.swap(),
        found.pred_points,
        found.truth_points,
        found.pred_of,
        found.truth_of,
        found.outside[::-1],
    )


def _on_grid(labels: NDArray[Any], polygons: Polygons, names: tuple[Path, Path]) -> Compared:
    if labels.ndim != 2:
        raise InputFileError(
            f"{names[0]} is {_size(labels)} and {names[1]} holds polygons: polygons lie in a "
            "plane; compare one section, or two label volumes"
        )
    table, kept = grid_overlaps(labels, polygons.geometry)
    if len(polygons.geometry) and len(kept) == 0:
        x0, y0, x1, y1 = shapely.total_bounds(polygons.geometry)
        raise InputFileError(
            f"no polygon of {names[1]} holds a pixel of {names[0]} ({_size(labels)}): they lie in "
            f"x {x0:g} to {x1:g}, y {y0:g} to {y1:g}; polygons must be in px of the label image"
        )
    outside = len(polygons.geometry) - len(kept)
    points = centres_of(polygons)[kept]
    ids = table.truth_id.astype(np.intp)
    return Compared(table, centroids(labels)[1], points, ids, kept, (0, outside))


def _size(labels: NDArray[Any]) -> str:
    return " x ".join(map(str, labels.shape)) + " px"
