"""Targets: what the maps of a network should be over a crop, and where that is known."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsiseg.errors import InputFileError
from wsiseg.metrics import centroids
from wsiseg.model.distance import unit_distance
from wsiseg.training.labelled import Labelled
from wsiseg.training.warp import Warp, sample

__all__ = ["Emphasis", "Grid", "Prepared", "Targets", "contacts", "prepare", "targets_of"]

Floats = NDArray[np.float32]

_NEAR = 3  # px of 0.25 µm: two nuclei this near are in contact

# around a centre, µm: surely nucleus; its class
_CORE, _BODY = 1.25, 1.75
_RIDGE = 0.4  # µm: difference of the distances to two centres, halfway between them
_RIDGE_WEIGHT = 0.3
_TOP = np.float32(0.9)  # unit distance at a centre: it may lie a little off the deepest place


@dataclass(frozen=True, slots=True)
class Emphasis:
    """What counts how much, and what counts as known."""

    contact: float = 3.0
    """How much more a pixel counts between nuclei that (nearly) touch."""
    background: float = 5.5
    """µm: where only centres are known, what is this far from all of them is background."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a network gives its maps."""

    spacing: float
    """µm per px of a crop."""
    stem: int
    """Px of a crop per px of the grid."""
    classes: int
    """K."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Maps of one crop on the grid of the network; a leading B when batched."""

    np: Floats
    """(G, G): share of foreground, [0, 1]."""
    np_weight: Floats
    """(G, G): 0 where it is not known, larger between nuclei in contact."""
    dt: Floats
    """(G, G): unit distance to the border."""
    dt_weight: Floats
    """(G, G)."""
    hv: Floats
    """(2, G, G): offset from the centroid, px of the crop."""
    hv_weight: Floats
    """(G, G): 1 inside nuclei with an outline."""
    tp: Floats
    """(K, G, G): probability of each class; sums to 0 where it is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A labelled image with what its crops are cut from."""

    item: Labelled
    labels: NDArray[np.uint16] | None
    """(H, W)."""
    maps: NDArray[np.uint8] | None
    """(H, W, 3): unit distance and contact, times 255; and 1 where known."""
    centroids: Floats
    """(max label + 1, 2) px."""


def prepare(item: Labelled) -> Prepared:
    """Whole-image maps, computed once."""
    if item.labels is None:
        return Prepared(item, None, None, np.zeros((0, 2), dtype=np.float32))
    labels = item.labels.astype(np.uint16)
    known = np.ones(labels.shape, dtype=bool) if item.known is None else item.known
    parts = (unit_distance(labels) * 255, contacts(labels) * 255, known * 1.0)
    maps = np.stack(parts, axis=-1).round().astype(np.uint8)
    return Prepared(item, labels, maps, _centroids(labels))


def contacts(labels: NDArray[np.uint16]) -> Floats:
    """(H, W), [0, 1]: how near a pixel is to a place where two nuclei (nearly) touch.

    Stands in for the border weights of Ronneberger et al. 2015 (MICCAI), at a cost that does not
    grow with the number of nuclei.
    """
    side = 2 * _NEAR + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    highest = cv2.dilate(labels, disc)
    lowest = cv2.erode(np.where(labels == 0, np.uint16(65535), labels), disc)
    near = ((highest > lowest) & (highest > 0)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(near, (0, 0), 1.5), dtype=np.float32)


def targets_of(
    crop: Prepared, warp: Warp, grid: Grid, emphasis: Emphasis, *, glass: bool = False
) -> Targets:
    """Targets of the crop of ``warp``; ``glass``: nothing lies beyond the edge of the image."""
    if crop.item.centres is not None:
        seen = _annotated(crop.item, warp, grid, glass)
        return _of_centres(crop.item, warp, grid, emphasis.background, seen)
    if crop.labels is None or crop.maps is None:
        raise InputFileError(f"{crop.item.name} has neither outlines nor centres")
    stem, fill = grid.stem, 0 if glass else None
    places = warp.places()
    labels = sample(crop.labels, places, exact=True, fill=fill).astype(np.int64)
    maps = sample(crop.maps, places, exact=False, fill=fill).astype(np.float32)
    within = _within(crop.item.image.shape[:2], places)
    if glass:
        maps[..., 2] = np.where(within, maps[..., 2], 1)
    depth, contact, known = (_pooled(maps[..., k], stem) for k in range(3))
    here = labels[::stem, ::stem]
    weight = (known > 0.99) * (1 + emphasis.contact * contact / 255)
    inside = (here > 0) & (known > 0.99)
    offsets = places[:, ::stem, ::stem] - crop.centroids[here].transpose(2, 0, 1)
    return Targets(
        np=_pooled((labels > 0).astype(np.float32), stem),
        np_weight=weight.astype(np.float32),
        dt=depth / np.float32(255),
        dt_weight=(weight * np.where(depth > 0, 1.0, 0.5)).astype(np.float32),
        hv=(warp.into_crop(offsets) + np.float32((stem - 1) / 2)) * inside,
        hv_weight=(inside & within[::stem, ::stem]).astype(np.float32),  # centroids do not mirror
        tp=_one_hot(_kinds(crop.item, here), grid.classes) * (known > 0.99),
    )


def _of_centres(
    item: Labelled, warp: Warp, grid: Grid, background: float, inside: NDArray[np.bool_]
) -> Targets:
    """What centres tell: a core of each nucleus, the far background, the ridges halfway.

    Nothing is known but ``inside`` (G, G): beyond the edge, nuclei are mirrored, centres are not.
    """
    centres = item.centres
    assert centres is not None
    shape = (warp.side // grid.stem,) * 2
    scale = _true_spacing(item, warp, grid)
    nodes = np.indices(shape).reshape(2, -1).T * grid.stem + (grid.stem - 1) / 2
    points = warp.points_into_crop(centres.points) * scale
    if len(points):
        distance, nearest = cKDTree(points).query(nodes * scale, k=2)
        first, second = (distance[:, k].reshape(shape) for k in range(2))
        kind = centres.kinds[np.minimum(nearest[:, 0], len(points) - 1)].reshape(shape)
    else:
        first = second = np.full(shape, np.inf)
        kind = np.zeros(shape, dtype=np.uint8)
    core, far = (first < _CORE) & inside, (first > background) & inside
    halfway = np.isfinite(second) & (first > _CORE) & (first <= background) & inside
    ridge = halfway & (second < first + _RIDGE)
    typed = np.where(inside & (first < _BODY) & (second > 2 * _BODY), kind, 0)
    nothing = np.zeros((2, *shape), dtype=np.float32)
    return Targets(
        np=core.astype(np.float32),
        np_weight=(core | far).astype(np.float32),
        dt=_TOP * (first < _CORE / 2).astype(np.float32),
        dt_weight=(inside * (first < _CORE / 2) + 0.5 * far + _RIDGE_WEIGHT * ridge).astype(
            np.float32
        ),
        hv=nothing,
        hv_weight=nothing[0],
        tp=_one_hot(typed, grid.classes),
    )


def _true_spacing(item: Labelled, warp: Warp, grid: Grid) -> float:
    """µm per px of a crop, with its zoom; that of the grid where no pixel size is known."""
    if item.mpp is None:
        return grid.spacing
    return float(np.sqrt(abs(np.linalg.det(warp.linear)))) * item.mpp


def _annotated(item: Labelled, warp: Warp, grid: Grid, glass: bool) -> NDArray[np.bool_]:
    """(G, G): where all nuclei of a pixel of the grid have a centre."""
    places = warp.places()[:, :: grid.stem, :: grid.stem]
    within = _within(item.image.shape[:2], places)
    if item.known is None:
        return within | glass
    known = sample(item.known.astype(np.uint8), np.ascontiguousarray(places), exact=True) > 0
    return np.asarray(np.where(within, known, glass))


def _within(shape: tuple[int, ...], places: Floats) -> NDArray[np.bool_]:
    """(S, S): whether ``places`` (2, S, S) lie in an image of ``shape``."""
    last = np.array(shape)[:, None, None] - 0.5
    return np.asarray(((places >= -0.5) & (places <= last)).all(axis=0))


def _pooled(array: Floats, factor: int) -> Floats:
    """Means of blocks of ``factor`` px."""
    if factor == 1:
        return array
    side = array.shape[0] // factor
    return np.asarray(cv2.resize(array, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def _kinds(item: Labelled, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    table = np.zeros(max(int(labels.max(initial=0)) + 1, len(item.kinds)), dtype=np.uint8)
    table[: len(item.kinds)] = item.kinds
    return np.where(labels > 0, table[labels], np.uint8(0))


def _one_hot(kinds: NDArray[np.uint8], classes: int) -> Floats:
    wanted = np.arange(1, classes + 1)[:, None, None]
    return np.equal(kinds[None], wanted).astype(np.float32)


def _centroids(labels: NDArray[np.uint16]) -> Floats:
    """(max label + 1, 2) px, pixel centres at whole numbers; 0 where there is no such label."""
    ids, points = centroids(labels)
    found = np.zeros((int(labels.max(initial=0)) + 1, 2), dtype=np.float32)
    found[ids] = points - 0.5
    return found
