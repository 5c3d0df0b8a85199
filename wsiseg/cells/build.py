"""Objects into cells: outlines in level-0 px, ids, classes, measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch
from wsiseg.cells.objects import Objects
from wsiseg.cells.polygons import outlines
from wsiseg.jit import kernel

__all__ = ["CellRecipe", "cells_of", "sized", "stable_ids"]

_LEAST_SCALE = 0.15  # level-0 px per lattice px; below, one pixel has too small an area to be kept


@dataclass(frozen=True, slots=True)
class CellRecipe:
    """How lattice objects become cells: everything here is the same for the whole slide."""

    scale: tuple[float, float]
    """Level-0 px per lattice px (y, x)."""
    spacing_um: tuple[float, float]
    """µm per lattice px (y, x)."""
    classes: tuple[str, ...]
    """Names of the classes that the sums of the objects follow."""
    salt: bytes
    """Identity of the slide's content, so that equal shapes in two slides get different ids."""
    simplify: float = 0.0
    """Largest distance, lattice px, by which an outline may be simplified; 0 keeps it exact."""


def sized(
    objects: Objects, smallest: int, largest: int | None
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Mask (N,) of objects of at least ``smallest`` px and at most ``largest`` px along any axis.

    Also how many fall out, by reason.
    """
    small = objects.areas < smallest
    start, stop = objects.boxes
    extent = (stop - start).max(axis=1, initial=0)
    large = ~small & (extent > largest) if largest is not None else np.zeros_like(small)
    return ~(small | large), {"too_small": int(small.sum()), "too_large": int(large.sum())}


def cells_of(objects: Objects, recipe: CellRecipe) -> CellBatch:
    """Cells of 2-D ``objects``, in the same order."""
    sy, sx = recipe.scale
    means = objects.means
    probabilities = means[:, 1:]
    chosen = probabilities.argmax(axis=1) if recipe.classes else np.full(len(objects), -1)
    pixel_um2 = recipe.spacing_um[0] * recipe.spacing_um[1]
    areas = objects.areas.astype(np.float64) * pixel_um2
    measurements = {"Area µm^2": _short(areas), "Score": _short(means[:, 0])}
    for k, name in enumerate(recipe.classes):
        measurements[f"Probability: {name}"] = _short(probabilities[:, k])
    cells = CellBatch(
        id=stable_ids(objects, recipe.salt),
        geometry=_geometry(objects, recipe, (sx, sy)),
        class_index=chosen.astype(np.int32),
        classes=recipe.classes,
        measurements=measurements,
    )
    return cells.vouched_for(_stay_apart(objects, recipe))


def stable_ids(objects: Objects, salt: bytes) -> NDArray[np.str_]:
    """(N,) UUIDs (RFC 9562, version 8) hashed from the pixels of each object and ``salt``."""
    seed = np.frombuffer(salt.ljust(16, b"\0")[:16], dtype=np.uint64)
    words = _hash(np.ascontiguousarray(objects.runs), objects.offsets, seed)
    raw = words.astype("<u8").view(np.uint8).reshape(-1, 16).copy()
    raw[:, 6] = (raw[:, 6] & 0x0F) | 0x80
    raw[:, 8] = (raw[:, 8] & 0x3F) | 0x80
    hexes = np.frombuffer(raw.tobytes().hex().encode(), "S1").reshape(-1, 32)
    dash = np.full((len(raw), 1), b"-", "S1")
    parts = [hexes[:, :8], hexes[:, 8:12], hexes[:, 12:16], hexes[:, 16:20], hexes[:, 20:]]
    joined = np.concatenate([c for p in parts for c in (p, dash)][:-1], axis=1)
    return np.ascontiguousarray(joined).view("S36").ravel().astype("U36")


def _stay_apart(objects: Objects, recipe: CellRecipe) -> bool:
    """Whether lines of pixels stay apart when rounded to 0.01 px, and then to float32.

    Both are monotone along each axis and the edges of traced outlines are axis-parallel, so as long
    as no two lines fall together, outlines are as valid as they were, and none is without area.
    """
    if recipe.simplify > 0 or min(recipe.scale) < _LEAST_SCALE:
        return False
    farthest = max(recipe.scale) * float(objects.runs.sum(axis=1).max(initial=0))
    return bool(min(recipe.scale) - 0.02 > np.spacing(np.float32(farthest)))


def _geometry(objects: Objects, recipe: CellRecipe, scale_xy: tuple[float, float]) -> NDArray[Any]:
    traced = outlines(objects)
    if recipe.simplify <= 0:
        return traced.scaled(scale_xy).to_shapely()
    import shapely

    exact = traced.scaled(scale_xy).to_shapely()
    loose = shapely.simplify(traced.to_shapely(), recipe.simplify, preserve_topology=True)
    moved = shapely.transform(loose, lambda xy: np.round(xy * np.asarray(scale_xy), 2))
    # the simplifier bounds each step, not the whole: where the bound does not hold, stay exact
    bound = recipe.simplify * min(scale_xy) + 0.01
    good = shapely.is_valid(moved) & (shapely.hausdorff_distance(exact, moved) <= bound)
    return np.asarray(np.where(good, moved, exact))


def _short(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded to 4 decimals: more would be noise, and short numbers make small files."""
    return np.asarray(np.round(values, 4))


@kernel
def _mix(h: np.uint64, word: np.uint64) -> np.uint64:
    # splitmix64 (Steele, Lea & Flood 2014), as a running hash
    h = (h ^ word) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@kernel
def _hash(
    runs: NDArray[np.int32], offsets: NDArray[np.int64], seed: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    out = np.empty((offsets.size - 1, 2), dtype=np.uint64)
    for i in range(offsets.size - 1):
        a = seed[0] ^ np.uint64(0x9E3779B97F4A7C15)
        b = seed[1] ^ np.uint64(0xD1B54A32D192ED03)
        for k in range(offsets[i], offsets[i + 1]):
            for c in range(runs.shape[1]):
                word = np.uint64(runs[k, c]) + np.uint64(1)
                a = _mix(a, word)
                b = _mix(b + np.uint64(0x9E3779B97F4A7C15), word)
        out[i, 0] = a
        out[i, 1] = b
    return out
