"""Validation: whole images through the model as users run it, and the scores of its objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.engine.infer import PatchMaps, patch_grid
from wsiseg.geometry import Box, Space, Tile
from wsiseg.geometry.links import components
from wsiseg.image.resample import resample
from wsiseg.image.slide import SAME_LATTICE
from wsiseg.image.source import ArraySource
from wsiseg.metrics import (
    aji,
    centroids,
    count_overlaps,
    dice,
    dq,
    match_overlaps,
    match_points,
    pq,
)
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
    """The image at the model's spacing, as a slide is read; as it is at an unknown pixel size."""
    scale = _scale(item, spec)
    if scale == 1:
        return item.image
    shape = item.image.shape[:2]
    # as Space.at: the last px may reach beyond the image
    wanted = Box.of_shape([max(1, int(np.ceil(n / scale - 1e-6))) for n in shape])
    return resample(lambda box: item.image[box.slices()], shape, (scale, scale), wanted)


def _scale(item: Labelled, spec: ModelSpec) -> float:
    """Px of the image per px of the lattice; 1 where they are within 5 %, as for slides."""
    if item.mpp is None or abs(item.mpp / spec.spacing[0] - 1) <= SAME_LATTICE:
        return 1.0
    return spec.spacing[0] / item.mpp


def predict(model: LocalModel, item: Labelled) -> tuple[Found, Maps, NDArray[np.int32]]:
    """Objects of ``item`` and, on the model's lattice, its maps and the labels of the objects."""
    image = on_lattice(item, model.spec)
    space = Space.regular(image.shape[:2], model.spec.spacing, model.spec.unit)
    source = ArraySource(image, space, fill=255)  # as a slide is read beyond its edge
    active = np.ones(patch_grid(space, model.spec).counts, dtype=bool)
    whole = PatchMaps(source, model, space, active)
    box = Box.of_shape(space.shape)
    maps = whole.maps(Tile((0,) * box.ndim, box, box), Clock())
    labels = without_small(components(model.links(maps)), model.spec.min_object)
    return _described(labels, maps, item.image.shape[:2], _scale(item, model.spec)), maps, labels


def without_small(labels: NDArray[np.int32], least: int) -> NDArray[np.int32]:
    """``labels`` renumbered 1.. without the objects of fewer than ``least`` px."""
    size = np.bincount(labels.ravel())
    keep = size >= least
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return number[labels]


def _described(
    labels: NDArray[np.int32], maps: Maps, shape: tuple[int, ...], scale: float
) -> Found:
    """Objects of the lattice in the px of an image of ``shape``, ``scale`` of which make one."""
    flat = labels.ravel()
    points = centroids(labels)[1]  # corner-based
    count = np.bincount(flat)[1:].astype(np.float64)
    each = [
        np.bincount(flat, weights=k.ravel().astype(np.float32))[1:] / count for k in maps.classes
    ]
    classes = np.stack(each, axis=1) if each else np.zeros((len(count), 0))
    if scale != 1:  # each pixel has the label of the lattice px that its centre lies in
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) / scale).astype(np.intp), k - 1)
            for n, k in zip(shape, labels.shape, strict=True)
        )
        labels = labels[rows[:, None], columns]
    return Found(labels, points * scale - 0.5, classes.astype(np.float32))


def score(found: Found, item: Labelled) -> Scores:
    """Scores of one image: pq, dq, aji and dice of outlines, or the detection f1 of centres.

    NaN where nothing is and nothing was found, and where the pixel size of an image with centres
    is not known: what is near cannot be told.
    """
    if item.labels is not None:
        overlaps = count_overlaps(item.labels, found.labels)
        match = match_overlaps(overlaps)
        values = {"pq": pq(match), "dq": dq(match), "aji": aji(overlaps), "dice": dice(overlaps)}
        return {name: float(value) for name, value in values.items()}
    assert item.centres is not None
    if item.mpp is None:
        return {"f1": float("nan")}
    match = match_points(item.centres.points, found.centroids, _RADIUS / item.mpp)
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
