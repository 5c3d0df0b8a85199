"""Validation: whole images through the model as users run it, and the scores of its objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.geometry import Box, Space, Tile
from wsiseg.geometry.links import components
from wsiseg.image.source import ArraySource
from wsiseg.metrics import aji, count_overlaps, dice, dq, match_overlaps, match_points, pq
from wsiseg.model.base import LocalModel, Maps, ModelSpec
from wsiseg.training.labelled import Labelled

__all__ = ["Found", "on_lattice", "predict", "score", "summary"]

_RADIUS = 3.0  # µm: a centroid this near a centre has found it
Scores = dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Objects of one image."""

    labels: NDArray[np.int32]
    """(H, W), px of the image."""
    centroids: NDArray[np.float64]
    """(N, 2) px of the image."""
    classes: NDArray[np.float32]
    """(N, K): mean class probabilities."""


def on_lattice(item: Labelled, spec: ModelSpec) -> NDArray[np.uint8]:
    """The image at the model's spacing; as it is where its pixel size is not known."""
    scale = 1.0 if item.mpp is None else item.mpp / spec.spacing[0]
    if abs(scale - 1) <= 0.05:
        return item.image
    size = [max(1, round(n * scale)) for n in item.image.shape[:2]]
    how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(item.image, (size[1], size[0]), interpolation=how), dtype=np.uint8)


def predict(model: LocalModel, item: Labelled) -> tuple[Found, Maps]:
    """Objects of ``item`` and, on the model's lattice, its maps."""
    image = on_lattice(item, model.spec)
    space = Space.regular(image.shape[:2], model.spec.spacing, model.spec.unit)
    source = ArraySource(image, space, fill=255)  # as a slide is read beyond its edge
    active = np.ones(patch_grid(space, model.spec).counts, dtype=bool)
    whole = PatchMaps(source, model, space, active)
    box = Box.of_shape(space.shape)
    maps = whole.maps(Tile((0,) * box.ndim, box, box), Clock())
    labels = without_small(components(model.links(maps)), model.spec.min_object)
    return _described(labels, maps, item), maps


def without_small(labels: NDArray[np.int32], least: int) -> NDArray[np.int32]:
    """``labels`` renumbered 1.. without the objects of fewer than ``least`` px."""
    size = np.bincount(labels.ravel())
    keep = size >= least
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return number[labels]


def _described(labels: NDArray[np.int32], maps: Maps, item: Labelled) -> Found:
    flat = labels.ravel()
    count = np.bincount(flat)[1:].astype(np.float64)
    axes = np.indices(labels.shape).reshape(2, -1)
    scale = np.array(item.image.shape[:2]) / labels.shape
    points = np.stack([np.bincount(flat, weights=a)[1:] / count for a in axes], axis=1)
    each = [
        np.bincount(flat, weights=k.ravel().astype(np.float32))[1:] / count for k in maps.classes
    ]
    classes = np.stack(each, axis=1) if each else np.zeros((len(count), 0))
    shape = item.image.shape[:2]
    if labels.shape != shape:
        # exact: INTER_NEAREST takes the pixel before the nearest one, a shift of half a pixel
        labels = cv2.resize(
            labels.astype(np.float32), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT
        ).astype(np.int32)
    return Found(labels, (points + 0.5) * scale - 0.5, classes.astype(np.float32))


def score(found: Found, item: Labelled) -> Scores:
    """Scores of one image: pq, dq, aji and dice of outlines, or the detection f1 of centres.

    NaN where nothing is and nothing was found.
    """
    if item.labels is not None:
        overlaps = count_overlaps(item.labels, found.labels)
        match = match_overlaps(overlaps)
        values = {"pq": pq(match), "dq": dq(match), "aji": aji(overlaps), "dice": dice(overlaps)}
        return {name: float(value) for name, value in values.items()}
    assert item.centres is not None
    radius = _RADIUS / (item.mpp or 0.25)
    match = match_points(item.centres.points, found.centroids, radius)
    both = 2 * match.tp + match.fp + match.fn
    return {"f1": 2 * match.tp / both if both else float("nan")}


def summary(rows: Sequence[tuple[str, Scores]]) -> dict[str, Scores]:
    """Means over the images of each set, NaN left out, by set and metric; NaN if all are."""
    sets: dict[str, Scores] = {}
    for name in sorted({n for n, _ in rows}):
        mine = [scores for n, scores in rows if n == name]
        keys = dict.fromkeys(k for scores in mine for k in scores)
        sets[name] = {k: _mean([s[k] for s in mine if k in s]) for k in keys}
    return sets


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")
