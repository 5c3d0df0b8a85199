"""Random scenes of labelled objects in any number of dimensions, with the shapes that break
stitching: touching pairs, rings, spirals, specks, glands, and objects on the corners of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SpaceError
from wsiseg.geometry import Box
from wsiseg.geometry.links import components, links_of

__all__ = ["KINDS", "scene"]

Coordinates = NDArray[np.float64]
"""``(n, *s)``: place of each pixel of a window, in units of half the extent of the object."""
Shape = Callable[[Coordinates, float, np.random.Generator], NDArray[Any]]
"""(coordinates, size of a px in their units, generator) -> 0 outside, 1.. inside."""


def scene(
    shape: Sequence[int],
    n: int,
    rng: np.random.Generator,
    *,
    extent: tuple[float, float] = (3, 40),
    tile: int | None = None,
    kinds: Sequence[str] = (),
) -> NDArray[np.int32]:
    """Labels ``shape`` of about ``n`` objects, 1.. in raster order, 0 outside.

    Extents are log-uniform within ``extent`` px; half of the objects keep a gap to those before
    them, the others touch what they meet. With ``tile``, half of the centres lie on corners of
    a grid of so many px. ``kinds`` are names of ``KINDS`` (all). Every label is face-connected:
    what was cut in two becomes two objects, and what found no room is left out.
    """
    if len(shape) < 2:
        raise SpaceError(f"a scene needs 2 axes or more, got shape {tuple(shape)}")
    labels = np.zeros(tuple(shape), dtype=np.int32)
    names = tuple(kinds) or tuple(KINDS)
    painted = 0
    for _ in range(n):
        make = KINDS[names[rng.integers(len(names))]]
        half = 0.5 * np.exp(rng.uniform(*np.log(extent)))
        centre = _centre(labels.shape, tile, rng)
        painted += _paint(labels, make, centre, half, rng, painted)
    return components(links_of(labels))


def _centre(
    shape: tuple[int, ...], tile: int | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    if tile is None or rng.random() < 0.5:
        return rng.uniform(0, shape)
    corner = [tile * rng.integers(0, s // tile + 1) for s in shape]
    return np.array(corner, dtype=np.float64) + rng.integers(-1, 2, size=len(shape)) / 2


def _paint(
    labels: NDArray[np.int32],
    make: Shape,
    centre: NDArray[np.float64],
    half: float,
    rng: np.random.Generator,
    before: int,
) -> int:
    """Put one object (or a pair) where there is room, after ``before``; returns how many."""
    start = np.floor(centre - half).astype(int)
    box = Box(tuple(start), tuple(start + int(2 * half) + 2)).clip(labels.shape)
    if box.empty:
        return 0
    window = labels[box.slices()]
    at = np.indices(box.shape) + 0.5 + _column(box.start, box.ndim) - _column(centre, box.ndim)
    parts = make(at / half, 1 / half, rng)
    taken = window != 0
    parts[_grown(taken) if rng.random() < 0.5 else taken] = 0
    window[parts > 0] = before + parts[parts > 0].astype(np.int32)
    return int(parts.max(initial=0))


def _column(values: Any, ndim: int) -> NDArray[Any]:
    return np.reshape(np.asarray(values), (-1,) + (1,) * ndim)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its face neighbours."""
    grown = mask.copy()
    for axis in range(mask.ndim):
        near, here = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        near[1:] |= here[:-1]
        near[:-1] |= here[1:]
    return grown


def _ellipsoid(at: Coordinates, px: float, rng: np.random.Generator) -> NDArray[Any]:
    turn = np.linalg.qr(rng.normal(size=(len(at), len(at))))[0]
    radii = np.maximum(rng.uniform(0.4, 1, size=len(at)), px)
    turned = np.tensordot(turn / radii[:, None], at, axes=1)
    return np.asarray((turned**2).sum(axis=0) <= 1, dtype=np.uint8)


def _pair(at: Coordinates, px: float, rng: np.random.Generator) -> NDArray[Any]:
    """A ball cut in two by a plane: two objects that touch along the whole cut."""
    normal = rng.normal(size=len(at))
    side = np.tensordot(normal / np.linalg.norm(normal), at, axes=1) > rng.uniform(-0.4, 0.4)
    return _ball(at).astype(np.uint8) * (1 + side.astype(np.uint8))


def _ring(at: Coordinates, px: float, rng: np.random.Generator) -> NDArray[Any]:
    """A ring; in 3-D a hollow ball. Other objects may lie inside."""
    inner = 1 - max(rng.uniform(0.1, 0.4), 2 * px)
    return (_ball(at) & (_radius(at) > inner)).astype(np.uint8)


def _crescent(at: Coordinates, px: float, rng: np.random.Generator) -> NDArray[Any]:
    """A ring with a mouth: a letter C."""
    turned = (_angle(at) + rng.uniform(0, 1)) % 1
    return _ring(at, px, rng) * (turned > rng.uniform(0.1, 0.4))


def _spiral(at: Coordinates, px: float, rng: np.random.Generator) -> NDArray[Any]:
    """A spiral in the last two axes, a slab along the others."""
    turns = min(4.0, 0.2 / px)  # an arm and the gap beside it take 2.5 px each, or more
    arm = (_radius(at[-2:]) * turns - _angle(at)) % 1 < 0.5
    slab = (np.abs(at[:-2]) <= max(0.3, px)).all(axis=0)
    return (_ball(at[-2:]) & arm & slab).astype(np.uint8)


def _gland(at: Coordinates, px: float, rng: np.random.Generator) -> NDArray[Any]:
    """A wavy ring of many folds around a wide lumen."""
    wave = 0.9 + 0.1 * np.sin(2 * np.pi * (_angle(at) * rng.integers(3, 12) + rng.random()))
    depth = wave - _radius(at)
    return ((depth >= 0) & (depth < max(0.15, 2 * px))).astype(np.uint8)


def _speck(at: Coordinates, px: float, rng: np.random.Generator) -> NDArray[Any]:
    """One pixel."""
    parts = np.zeros(at.shape[1:], dtype=np.uint8)
    parts.flat[np.argmin((at**2).sum(axis=0))] = 1
    return parts


def _radius(at: Coordinates) -> NDArray[np.float64]:
    return np.asarray(np.sqrt((at**2).sum(axis=0)))


def _ball(at: Coordinates) -> NDArray[np.bool_]:
    return np.asarray(_radius(at) <= 1)


def _angle(at: Coordinates) -> NDArray[np.float64]:
    """Angle in the plane of the last two axes, in turns."""
    return np.asarray(np.arctan2(at[-2], at[-1]) / (2 * np.pi))


KINDS: dict[str, Shape] = {
    "ellipsoid": _ellipsoid,
    "pair": _pair,
    "ring": _ring,
    "crescent": _crescent,
    "spiral": _spiral,
    "gland": _gland,
    "speck": _speck,
}
