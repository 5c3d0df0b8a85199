"""Error cases: which errors of an image are worth looking at, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from wsiseg.metrics import Errors, Overlaps
from wsiseg.run.evaluate_compare import Objects, Points
from wsiseg.run.inputs import Polygons

__all__ = [
    "DISC_UM",
    "KEPT",
    "ErrorCase",
    "Places",
    "discs",
    "farthest_missed",
    "places_of",
    "rows_of",
    "worst_alone",
    "worst_errors",
]

KEPT = 12
"""Errors of one type that are kept of an image, the worst ones, for the page of worst cases."""
DISC_UM = 1.5
"""Radius of the disc that stands for a true nucleus of which only the centre is known."""


@dataclass(frozen=True, slots=True)
class ErrorCase:
    """One error, and where to look for it."""

    kind: str
    """One of ``ERROR_TYPES``."""
    truth: tuple[int, ...]
    """Ids of true objects in their label image; places plus 1 of polygons and of centres."""
    pred: tuple[int, ...]
    """The same of predictions."""
    box: tuple[float, float, float, float]
    """What holds them all: y0, x0, y1, x1, px."""
    severity: tuple[float, ...]
    """The greater, the worse, among errors of one type."""
    note: str
    """What to say of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Ids and boxes of the objects of one side, in the order of their table."""

    ids: NDArray[np.intp]
    """(N,) ids by which they are painted: of labels, or places of polygons and centres plus 1."""
    boxes: NDArray[np.float64]
    """(N, 4) y0, x0, y1, x1, px."""

    @property
    def size(self) -> NDArray[np.float64]:
        """(N,) areas of the boxes."""
        return np.asarray(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1))


def rows_of(objects: Objects) -> NDArray[np.intp]:
    """Ids of labels, or places of polygons, in order."""
    if isinstance(objects, Polygons):
        return np.arange(len(objects.geometry))
    ids = np.unique(objects)
    return ids[ids > 0].astype(np.intp)


def places_of(objects: Objects, rows: NDArray[np.intp]) -> Places:
    """Where the objects ``rows`` (N,) are: ids of labels, or places of polygons."""
    if isinstance(objects, Polygons):
        bounds = shapely.bounds(objects.geometry[rows]).reshape(-1, 4)
        return Places(rows + 1, np.asarray(bounds[:, [1, 0, 3, 2]], dtype=np.float64))
    place = np.searchsorted(rows, objects, side="right")  # 0 in the background, else place + 1
    found = [
        (y.start, x.start, y.stop, x.stop)
        for y, x in find_objects(place.astype(np.int32), max_label=len(rows))
    ]
    return Places(rows, np.array(found, dtype=np.float64).reshape(-1, 4))


def discs(centres: Points, radius: float) -> Places:
    """Discs of ``radius`` px around ``centres`` (N, 2)."""
    boxes = np.concatenate([centres - radius, centres + radius], axis=1)
    return Places(np.arange(1, len(centres) + 1), boxes)


def worst_alone(kind: str, rows: NDArray[np.intp], where: Places) -> list[ErrorCase]:
    """The largest of the objects at ``rows``, which are "missed" or "false"."""
    size = where.size[rows]
    top = np.argsort(-size, kind="stable")[:KEPT]
    return [_alone(kind, where, int(rows[i]), float(size[i]), "") for i in top]


def farthest_missed(
    rows: NDArray[np.intp], where: Places, away_um: NDArray[np.float64]
) -> list[ErrorCase]:
    """The missed centres at ``rows`` that are farthest, by ``away_um`` (N,), from a prediction."""
    top = rows[np.argsort(-away_um[rows], kind="stable")[:KEPT]]
    found = []
    for row in top.tolist():
        away = float(away_um[row])
        note = f"nearest prediction {away:.1f} µm away" if isfinite(away) else "no prediction"
        found.append(_alone("missed", where, row, away, note))
    return found


def worst_errors(errors: Errors, where: tuple[Places, Places]) -> list[ErrorCase]:
    """The worst errors of each type: large objects, many parts, low IoU."""
    table = errors.overlaps
    found = worst_alone("missed", errors.missed, where[0])
    found += worst_alone("false", errors.false, where[1])
    found += _groups("merged", errors.merged, table.pred, table, where)
    found += _groups("split", errors.split, table.truth, table, where)
    iou = table.iou
    for pair in errors.boundary[np.argsort(iou[errors.boundary], kind="stable")][:KEPT]:
        value = float(iou[pair])
        found.append(_joined("boundary", pair[None], table, where, (-value,), f"IoU {value:.2f}"))
    return found


def _groups(
    kind: str,
    pairs: NDArray[np.intp],
    by: NDArray[np.intp],
    table: Overlaps,
    where: tuple[Places, Places],
) -> list[ErrorCase]:
    """Merges (pairs by prediction) or splits (by true object), those of most parts first."""
    order = pairs[np.argsort(by[pairs], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(by[order])) + 1) if len(order) else []
    ranked = sorted(groups, key=lambda g: (-len(g), -float(table.size[g].sum())))[:KEPT]
    what = "nuclei in one" if kind == "merged" else "parts"
    return [
        _joined(kind, g, table, where, (len(g), float(table.size[g].sum())), f"{len(g)} {what}")
        for g in ranked
    ]


def _joined(
    kind: str,
    pairs: NDArray[np.intp],
    table: Overlaps,
    where: tuple[Places, Places],
    severity: tuple[float, ...],
    note: str,
) -> ErrorCase:
    truth, pred = np.unique(table.truth[pairs]), np.unique(table.pred[pairs])
    boxes = np.concatenate([where[0].boxes[truth], where[1].boxes[pred]])
    box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
    ids = tuple(where[0].ids[truth].tolist()), tuple(where[1].ids[pred].tolist())
    return ErrorCase(kind, *ids, box, severity, note)


def _alone(kind: str, where: Places, row: int, severity: float, note: str) -> ErrorCase:
    one = (int(where.ids[row]),)
    truth, pred = (one, ()) if kind == "missed" else ((), one)
    y0, x0, y1, x1 = where.boxes[row].tolist()
    return ErrorCase(kind, truth, pred, (y0, x0, y1, x1), (severity,), note)
