"""Moments of objects: where they lie, how they are shaped, what colour they are, from their runs.

Sums are exact integers, taken in one pass. No file has columns of these yet; the benchmarks measure
what they cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.objects import Objects
from wsiseg.jit import kernel

__all__ = ["Colours", "Shapes", "colours_of", "shapes_of"]


@dataclass(frozen=True, slots=True)
class Shapes:
    """Moments of the areas of N objects of n axes, in lattice px."""

    areas: NDArray[np.int64]
    """(N,) pixels."""
    centroids: NDArray[np.float64]
    """(N, n) centres of mass, corner-based."""
    covariances: NDArray[np.float64]
    """(N, n, n) second central moments over the area, px²; of one pixel, 1/12 along each axis."""

    @property
    def axes(self) -> NDArray[np.float64]:
        """(N, n) full axes, the longest first, of the ellipsoids of the same covariances, px."""
        ndim = self.covariances.shape[-1]
        variances = np.linalg.eigvalsh(self.covariances)[:, ::-1]
        return np.asarray(2 * np.sqrt((ndim + 2) * np.maximum(variances, 0)))


@dataclass(frozen=True, slots=True)
class Colours:
    """Moments of the values of C channels over the pixels of N objects."""

    means: NDArray[np.float64]
    """(N, C)."""
    variances: NDArray[np.float64]
    """(N, C)."""


def shapes_of(objects: Objects) -> Shapes:
    """The moments of zeroth, first and second order of each object."""
    n = objects.ndim
    sums = _shape_sums(np.ascontiguousarray(objects.runs), objects.offsets)
    areas, first = sums[:, 0], sums[:, 1 : 1 + n] / sums[:, :1]
    second = sums[:, 1 + n :].reshape(-1, n, n) / sums[:, :1, None]
    central = second - first[:, :, None] * first[:, None, :]
    return Shapes(areas, objects.anchors + first + 0.5, central + np.eye(n) / 12)


def colours_of(objects: Objects, pixels: NDArray[np.uint8], origin: Sequence[int]) -> Colours:
    """Mean and variance of ``pixels`` ``(*s, C)`` over each of ``objects``, which lie inside.

    ``origin`` is the lattice index of the first pixel.
    """
    shape = np.array(pixels.shape[:-1], dtype=np.int64)
    values = np.ascontiguousarray(pixels).reshape(-1, pixels.shape[-1])
    runs, start = np.ascontiguousarray(objects.runs), np.array(origin, dtype=np.int64)
    sums = _colour_sums(runs, objects.offsets, values, shape, start)
    means, squares = np.moveaxis(sums / objects.areas[:, None, None], 2, 0)
    return Colours(means, np.maximum(squares - means**2, 0))


@kernel
def _shape_sums(runs: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, 1 + n + n * n): pixels, and sums over them of places and of products of places, from
    each object's first pixel.
    """
    n = runs.shape[1] - 1
    sums = np.zeros((offsets.size - 1, 1 + n + n * n), dtype=np.int64)
    at = np.empty(n, dtype=np.int64)
    for i in range(offsets.size - 1):
        own, products = sums[i], sums[i, 1 + n :]
        anchor = runs[offsets[i]]
        for r in range(offsets[i], offsets[i + 1]):
            length = np.int64(runs[r, n])
            # over 0 .. length - 1: the sum of steps, and of their squares
            steps = length * (length - 1) // 2
            squares = steps * (2 * length - 1) // 3
            own[0] += length
            for a in range(n):
                at[a] = runs[r, a] - anchor[a]
                own[1 + a] += at[a] * length
                for b in range(a + 1):
                    products[a * n + b] += at[a] * at[b] * length
            own[n] += steps
            for a in range(n):
                products[(n - 1) * n + a] += at[a] * steps
            products[n * n - 1] += at[n - 1] * steps + squares
        for a in range(n):
            for b in range(a):
                products[b * n + a] = products[a * n + b]
    return sums


@kernel
def _colour_sums(
    runs: NDArray[np.int32],
    offsets: NDArray[np.int64],
    values: NDArray[np.uint8],
    shape: NDArray[np.int64],
    origin: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(N, C, 2) sums of values and of their squares; ``values`` (P, C) of a box of ``shape``."""
    channels = values.shape[1]
    sums = np.zeros((offsets.size - 1, channels, 2), dtype=np.int64)
    for i in range(offsets.size - 1):
        for r in range(offsets[i], offsets[i + 1]):
            first = np.int64(0)
            for a in range(shape.size):
                first = first * shape[a] + runs[r, a] - origin[a]
            part = values[first : first + runs[r, shape.size]]
            for c in range(channels):
                total = squares = np.int64(0)
                for k in range(part.shape[0]):
                    value = np.int64(part[k, c])
                    total += value
                    squares += value * value
                sums[i, c, 0] += total
                sums[i, c, 1] += squares
    return sums
