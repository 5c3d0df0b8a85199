"""Objects: instances in any number of dimensions as runs of pixels, without a dense image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.geometry.links import next_nonzero
from wsiseg.jit import kernel

__all__ = ["ONE", "Objects", "merge", "objects_in"]

ONE = 1 << 16
"""Fixed-point 1.0. Sums over pixels are integers, so that the parts of an object add up exactly."""


@dataclass(frozen=True, slots=True)
class Objects:
    """N disjoint sets of pixels of one lattice."""

    runs: NDArray[np.int32]
    """(R, n + 1): index of the first pixel, and the length along the last axis. Grouped by object,
    within an object in raster order and never adjacent on a line."""
    offsets: NDArray[np.int64]
    """(N + 1,): object i has the runs ``offsets[i]:offsets[i + 1]``, at least one."""
    sums: NDArray[np.int64]
    """(N, 1 + K): sums over the pixels of the foreground and the class probabilities, in 1/ONE."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.runs.shape[1] - 1)

    @property
    def areas(self) -> NDArray[np.int64]:
        """(N,) pixels of each object."""
        ends = np.concatenate(([0], np.cumsum(self.runs[:, -1], dtype=np.int64)))
        return np.asarray(np.diff(ends[self.offsets]))

    @property
    def anchors(self) -> NDArray[np.int32]:
        """(N, n) first pixel of each object in raster order: no two objects share one."""
        return self.runs[self.offsets[:-1], :-1]

    @property
    def boxes(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(N, n) starts and stops of the bounding boxes."""
        starts, stops = _boxes(np.ascontiguousarray(self.runs), self.offsets)
        return starts, stops

    @property
    def means(self) -> NDArray[np.float64]:
        """(N, 1 + K) mean over the pixels of the foreground and the class probabilities."""
        return np.asarray(self.sums / (self.areas[:, None] * float(ONE)))

    @property
    def centroids(self) -> NDArray[np.float64]:
        """(N, n) centres of mass, corner-based lattice px; sums are exact integers."""
        length = self.runs[:, -1].astype(np.int64)
        twice = (2 * self.runs[:, :-1].astype(np.int64) + 1) * length[:, None]
        twice[:, -1] += length * (length - 1)
        ends = np.concatenate((np.zeros((1, self.ndim), np.int64), np.cumsum(twice, axis=0)))
        totals = np.diff(ends[self.offsets], axis=0)
        return np.asarray(totals / (2.0 * self.areas[:, None]))

    def take(self, which: NDArray[Any]) -> Objects:
        """The objects at the positions ``which`` (indices or a mask), in that order."""
        index = np.flatnonzero(which) if which.dtype == bool else np.asarray(which)
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        rows = np.repeat(self.offsets[index] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Objects(self.runs[rows], offsets, self.sums[index])

    def paint(self, box: Box) -> NDArray[np.int32]:
        """Labels ``(*box.shape)`` with object i as i + 1; for tests and small volumes."""
        image = np.zeros(box.shape, dtype=np.int32)
        owner = np.repeat(np.arange(1, len(self) + 1), np.diff(self.offsets))
        for run, label in zip(self.runs.tolist(), owner.tolist(), strict=True):
            line = Box(tuple(run[:-1]), (*(v + 1 for v in run[:-2]), run[-2] + run[-1]))
            image[line.intersect(box).slices(box.start)] = label
        return image

    @classmethod
    def none(cls, ndim: int, sums: int) -> Objects:
        """No objects, of ``ndim`` axes and ``sums`` sums."""
        return cls(
            np.zeros((0, ndim + 1), np.int32), np.zeros(1, np.int64), np.zeros((0, sums), np.int64)
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Objects]) -> Objects:
        """The objects of all ``parts`` (at least one), in order."""
        shifts = np.cumsum([0, *(len(p.runs) for p in parts)])
        offsets = [p.offsets[1:] + s for p, s in zip(parts, shifts, strict=False)]
        return cls(
            np.concatenate([p.runs for p in parts]),
            np.concatenate([np.zeros(1, np.int64), *offsets]),
            np.concatenate([p.sums for p in parts]),
        )


def objects_in(
    labels: NDArray[np.int32], channels: NDArray[np.float16], origin: Sequence[int]
) -> Objects:
    """Objects of ``labels`` ``(*s)`` (0 outside, 1..N each present), with sums of ``channels``.

    ``channels`` is ``(1 + K, *s)``; ``origin`` is the lattice index of the first pixel.
    """
    if not labels.size:
        return Objects.none(labels.ndim, len(channels))
    lines = np.ascontiguousarray(labels).reshape(-1, labels.shape[-1])
    values = np.ascontiguousarray(channels).reshape(len(channels), *lines.shape).view(np.uint16)
    found = _runs(lines)
    lines_of = np.array(labels.shape[:-1], dtype=np.int64)
    runs, offsets = _by_label(found, lines_of, np.array(origin, dtype=np.int64))
    return Objects(runs, offsets, _sums(found, values, _HALF_TO_FIXED, offsets.size - 1))


def merge(parts: Objects, group: NDArray[np.integer], count: int) -> Objects:
    """One object for each group 0..count-1 of disjoint ``parts``; ``group`` is (len(parts),)."""
    of_run = np.repeat(group, np.diff(parts.offsets))
    order = np.lexsort((*parts.runs[:, -2::-1].T, of_run))
    runs, of_run = parts.runs[order], of_run[order]
    same = (of_run[1:] == of_run[:-1]) & (runs[1:, :-2] == runs[:-1, :-2]).all(axis=1)
    fresh = np.ones(len(runs), dtype=bool)
    fresh[1:] = ~(same & (runs[1:, -2] == runs[:-1, -2] + runs[:-1, -1]))
    starts = np.flatnonzero(fresh)
    joined = runs[starts]
    joined[:, -1] = np.add.reduceat(runs[:, -1], starts) if len(starts) else 0
    offsets = np.concatenate(([0], np.cumsum(np.bincount(of_run[starts], minlength=count))))
    sums = np.zeros((count, parts.sums.shape[1]), np.int64)
    np.add.at(sums, group, parts.sums)
    return Objects(joined, offsets.astype(np.int64), sums)


def _half_table() -> NDArray[np.int32]:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    in_range = np.clip(np.nan_to_num(halves, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    return np.asarray(np.rint(in_range * ONE), dtype=np.int32)


_HALF_TO_FIXED = _half_table()


@kernel
def _runs(lines: NDArray[np.int32]) -> NDArray[np.int32]:
    """(R, 4) of every run in raster order: line, first pixel, length, label."""
    found = np.empty((4096, 4), dtype=np.int32)
    n = 0
    for y in range(lines.shape[0]):
        line = lines[y]
        x = next_nonzero(line, 0)
        while x < line.size:
            first, label = x, line[x]
            while x < line.size and line[np.uint64(x)] == label:
                x += 1
            if n == found.shape[0]:
                larger = np.empty((2 * n, 4), dtype=np.int32)
                larger[:n] = found
                found = larger
            found[n, 0], found[n, 1], found[n, 2], found[n, 3] = y, first, x - first, label
            n += 1
            if x < line.size and line[np.uint64(x)] == 0:
                x = next_nonzero(line, x)
    return found[:n]


@kernel
def _by_label(
    found: NDArray[np.int32], lines_of: NDArray[np.int64], origin: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Runs of each label in turn, on the lattice, and where each begins.

    ``lines_of`` are the sides of the lattice without the last, by which lines are numbered.
    """
    count = 0
    for k in range(found.shape[0]):
        count = max(count, found[k, 3])
    offsets = np.zeros(count + 1, dtype=np.int64)
    for k in range(found.shape[0]):
        offsets[found[k, 3]] += 1
    for i in range(count):
        offsets[i + 1] += offsets[i]
    n = lines_of.size
    runs = np.empty((found.shape[0], n + 2), dtype=np.int32)
    at = offsets[:-1].copy()
    for k in range(found.shape[0]):
        i = found[k, 3] - 1
        line = np.int64(found[k, 0])
        for axis in range(n - 1, 0, -1):
            runs[at[i], axis] = line % lines_of[axis] + origin[axis]
            line //= lines_of[axis]
        if n:
            runs[at[i], 0] = line + origin[0]
        runs[at[i], n], runs[at[i], n + 1] = found[k, 1] + origin[n], found[k, 2]
        at[i] += 1
    return runs, offsets


@kernel
def _boxes(runs: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """(2, N, n) starts and stops of the bounding boxes."""
    n = runs.shape[1] - 1
    boxes = np.empty((2, offsets.size - 1, n), dtype=np.int32)
    for i in range(offsets.size - 1):
        for a in range(n):
            start = stop = runs[offsets[i], a]
            for r in range(offsets[i], offsets[i + 1]):
                length = runs[r, n] if a == n - 1 else np.int32(1)
                start, stop = min(start, runs[r, a]), max(stop, runs[r, a] + length)
            boxes[0, i, a], boxes[1, i, a] = start, stop
    return boxes


@kernel
def _sums(
    found: NDArray[np.int32], values: NDArray[np.uint16], table: NDArray[np.int32], count: int
) -> NDArray[np.int64]:
    sums = np.zeros((count, values.shape[0]), dtype=np.int64)
    for k in range(found.shape[0]):
        y, first, length, label = found[k, 0], found[k, 1], found[k, 2], found[k, 3]
        for c in range(values.shape[0]):
            total = 0
            for half in values[c, y, first : first + length]:
                total += table[half]
            sums[label - 1, c] += total
    return sums
