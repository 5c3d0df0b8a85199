"""Noise and outlines as functions of position alone, so that a picture can be made in tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.jit import kernel

__all__ = ["grain", "inside_any", "keep_apart", "noise", "paint_blobs"]


def noise(
    at: NDArray[np.float64], cell: float | tuple[float, float], seed: int
) -> NDArray[np.float32]:
    """Smooth random values in [-1, 1] at points ``at`` (2, *s), with detail of ``cell`` px.

    Value noise: random values on a lattice, between which is interpolated by smoothsteps.
    """
    size = np.broadcast_to(np.asarray(cell, dtype=np.float64), 2)
    y, x = np.ascontiguousarray(at, dtype=np.float64).reshape(2, -1)
    return _noise(y / size[0], x / size[1], seed).reshape(at.shape[1:])


def grain(at: NDArray[np.float64], channels: int, seed: int) -> NDArray[np.float32]:
    """Random values (*s, channels), independent from px to px, of mean 0 and variance 1."""
    y, x = np.ascontiguousarray(at).reshape(2, -1).astype(np.int64)
    return _grain(y, x, channels, seed).reshape(*at.shape[1:], channels)


def paint_blobs(
    blobs: NDArray[np.float64], numbers: NDArray[np.int64], at: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Number of the blob at each px of a window ``at`` (2, h, w), 0 outside; and how far out.

    ``blobs`` (N, 8): y, x, long and short radius, angle, two phases and the amplitude of the
    waves of the border. Where blobs overlap, the first one shows. How far out: 0 in the middle,
    1 on the border.
    """
    labels = np.zeros(at.shape[1:], dtype=np.int32)
    depth = np.zeros(at.shape[1:], dtype=np.float32)
    _paint(blobs, numbers, at[0, 0, 0], at[1, 0, 0], labels, depth)
    return labels, depth


def keep_apart(
    points: NDArray[np.float64], radii: NDArray[np.float64], share: float
) -> NDArray[np.bool_]:
    """Which of ``points`` (N, 2) stay if each must keep ``share`` of both radii to those before."""
    if not len(points):
        return np.zeros(0, dtype=np.bool_)
    side = 2 * share * float(radii.max()) + 1e-9
    cells = np.floor((points - points.min(axis=0)) / side).astype(np.int64) + 1
    return _keep_apart(points, radii * share, cells)


@kernel
def _random(y: Any, x: Any, seed: Any) -> float:
    """Uniform in [0, 1): the mixing function of SplitMix64 (Steele et al. 2014, OOPSLA)."""
    h = np.uint64(y) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(x) * np.uint64(0xC2B2AE3D27D4EB4F)
    h += np.uint64(seed) * np.uint64(0x165667B19E3779F9)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    return float(h >> np.uint64(40)) / 16777216.0


@kernel
def _noise(y: NDArray[np.float64], x: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    out = np.empty(y.size, dtype=np.float32)
    row, column = np.int64(1) << 62, np.int64(0)  # of the cell whose corners are known
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for p in range(y.size):
        j, i = np.int64(np.floor(y[p])), np.int64(np.floor(x[p]))
        if j != row or i != column:  # most cells are wide
            row, column = j, i
            a, b = _random(j, i, seed), _random(j, i + 1, seed)
            c, d = _random(j + 1, i, seed), _random(j + 1, i + 1, seed)
        v, u = y[p] - j, x[p] - i
        v, u = v * v * (3 - 2 * v), u * u * (3 - 2 * u)
        out[p] = 2 * ((a + (b - a) * u) * (1 - v) + (c + (d - c) * u) * v) - 1
    return out


@kernel
def _grain(
    y: NDArray[np.int64], x: NDArray[np.int64], channels: int, seed: int
) -> NDArray[np.float32]:
    out = np.empty((y.size, channels), dtype=np.float32)
    for p in range(y.size):
        for c in range(channels):
            two = _random(y[p], x[p], seed + 2 * c) + _random(y[p], x[p], seed + 2 * c + 1)
            out[p, c] = (two - 1) * 2.449489742783178  # sqrt(6): a sum of two uniforms
    return out


@kernel
def _paint(
    blobs: NDArray[np.float64],
    numbers: NDArray[np.int64],
    top: float,
    left: float,
    labels: NDArray[np.int32],
    depth: NDArray[np.float32],
) -> None:
    height, width = labels.shape
    for k in range(len(blobs)):
        y, x = blobs[k, 0] - top, blobs[k, 1] - left
        far = (1 + 2 * blobs[k, 7]) * max(blobs[k, 2], blobs[k, 3])
        for r in range(max(0, int(y - far)), min(height, int(y + far) + 2)):
            for c in range(max(0, int(x - far)), min(width, int(x + far) + 2)):
                out = _far_out(blobs[k], r + top, c + left)
                if out < 1 and labels[r, c] == 0:
                    labels[r, c] = numbers[k]
                    depth[r, c] = out


@kernel
def _far_out(blob: NDArray[np.float64], at_y: float, at_x: float) -> float:
    """0 in the middle of the blob, 1 on its border."""
    y, x, long, short, angle, phase2, phase3, wave = blob
    cos, sin = np.cos(angle), np.sin(angle)
    dy, dx = at_y - y, at_x - x
    u, v = (cos * dx + sin * dy) / long, (cos * dy - sin * dx) / short
    turn = np.arctan2(v, u)
    border = 1 + wave * (np.cos(2 * turn + phase2) + 0.7 * np.cos(3 * turn + phase3))
    return float(np.sqrt(u * u + v * v) / border)


@kernel
def inside_any(blobs: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each of ``points`` (N, 2) lies in one of ``blobs`` (M, 8)."""
    found = np.zeros(len(points), dtype=np.bool_)
    for p in range(len(points)):
        for k in range(len(blobs)):
            near = abs(points[p, 0] - blobs[k, 0]) < 1.5 * blobs[k, 2]
            if near and _far_out(blobs[k], points[p, 0], points[p, 1]) < 1:
                found[p] = True
    return found


@kernel
def _keep_apart(
    points: NDArray[np.float64], radii: NDArray[np.float64], cells: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """``cells`` (N, 2): square of each point, from 1, on a grid as coarse as any two interact."""
    kept = np.zeros(len(points), dtype=np.bool_)
    first = np.full((cells[:, 0].max() + 2, cells[:, 1].max() + 2), -1)
    after = np.full(len(points), -1)  # next kept point of the same square
    for k in range(len(points)):
        free = True
        for j in range(cells[k, 0] - 1, cells[k, 0] + 2):
            for i in range(cells[k, 1] - 1, cells[k, 1] + 2):
                q = first[j, i]
                while q >= 0:
                    dy, dx = points[k, 0] - points[q, 0], points[k, 1] - points[q, 1]
                    free = free and dy * dy + dx * dx >= (radii[k] + radii[q]) ** 2
                    q = after[q]
        if free:
            kept[k] = True
            after[k] = first[cells[k, 0], cells[k, 1]]
            first[cells[k, 0], cells[k, 1]] = k
    return kept
