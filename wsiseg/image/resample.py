"""Anti-aliased resampling whose values do not depend on how an area is cut into reads.

A target pixel i of an axis with ``scale`` source px per target px has its centre at source
coordinate ``c = (i + 0.5) * scale``. It is the mean of source pixels j under a triangle of half
width ``max(1, scale)`` px around c, with weights ``1 - |j + 0.5 - c| / width`` normalised to
sum 1; at the slide's edge the triangle is cut and normalised again. For ``scale <= 1`` this is
bilinear interpolation. Weights follow from the global index i in float64; sums run in float32 in
ascending order of j, along x first and then along y, so every value is the same in every cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.jit import kernel

__all__ = ["Taps", "resample", "taps"]

ReadBox = Callable[[Box], NDArray[np.uint8]]

BLOCK = 4096  # source px per side of what is worked on at a time
BAND = 1 << 24  # source px read at a time


@dataclass(frozen=True, slots=True)
class Taps:
    """Which source px make N neighbouring target px of one axis, and with what weights."""

    first: NDArray[np.int64]
    """(N,) first source px of each."""
    count: NDArray[np.int64]
    """(N,) number of source px of each, at least 1."""
    weight: NDArray[np.float32]
    """(N, max count) weights in ascending order of source px; each row sums to 1."""

    @property
    def span(self) -> tuple[int, int]:
        """First source px needed, and first beyond."""
        return int(self.first.min()), int((self.first + self.count).max())


def taps(start: int, stop: int, scale: float, size: int) -> Taps:
    """Taps of target px ``start .. stop`` of an axis of ``size`` source px (see the module)."""
    width = max(1.0, scale)
    centre = (np.arange(start, stop, dtype=np.float64) + 0.5) * scale
    first = np.ceil(centre - width - 0.5).astype(np.int64)
    most = int(np.floor(2 * width)) + 2
    j = first[:, None] + np.arange(most)
    weight = np.maximum(0.0, 1.0 - np.abs(j + 0.5 - centre[:, None]) / width)
    weight[(j < 0) | (j >= size)] = 0.0
    lost = weight.sum(axis=1) <= 0  # the centre lies beyond the edge: the last px stands in
    weight[lost] = j[lost] == np.clip(np.floor(centre[lost]), 0, size - 1)[:, None]
    return _compact(first, weight / weight.sum(axis=1, keepdims=True))


def resample(
    read: ReadBox, shape: tuple[int, int], scale: tuple[float, float], box: Box
) -> NDArray[np.uint8]:
    """Pixels (h, w, 3) of ``box`` on a lattice of ``scale`` (y, x) source px per px.

    ``read`` gives any box of the source, an image of ``shape`` (h, w); it is asked for boxes
    inside it only. Memory is bounded by the result and about 200 MB, whatever the scale.
    """
    out = np.empty((*box.shape, 3), dtype=np.uint8)
    for part in _blocks(box, scale):
        vertical = taps(part.start[0], part.stop[0], scale[0], shape[0])
        horizontal = taps(part.start[1], part.stop[1], scale[1], shape[1])
        rows = _squeeze_rows(read, vertical, horizontal)
        first = vertical.first - vertical.span[0]
        out[part.slices(box.start)] = _along_y(rows, first, vertical.count, vertical.weight)
    return out


def _compact(first: NDArray[np.int64], weight: NDArray[np.float64]) -> Taps:
    # drop the zeros at both ends of each row, so that no pixel is read for nothing
    used = weight > 0
    lead = used.argmax(axis=1)
    count = weight.shape[1] - used[:, ::-1].argmax(axis=1) - lead
    columns = lead[:, None] + np.arange(int(count.max()))
    columns = np.minimum(columns, weight.shape[1] - 1)
    shifted = np.take_along_axis(weight, columns, axis=1).astype(np.float32)
    return Taps(first + lead, count.astype(np.int64), shifted)


def _blocks(box: Box, scale: tuple[float, float]) -> Iterator[Box]:
    step = [max(1, int(BLOCK // s)) for s in scale]
    for y in range(box.start[0], box.stop[0], step[0]):
        for x in range(box.start[1], box.stop[1], step[1]):
            yield Box((y, x), (y + step[0], x + step[1])).intersect(box)


def _squeeze_rows(read: ReadBox, vertical: Taps, horizontal: Taps) -> NDArray[np.float32]:
    (y0, y1), (x0, x1) = vertical.span, horizontal.span
    rows = np.empty((y1 - y0, len(horizontal.first), 3), dtype=np.float32)
    step = max(1, BAND // (x1 - x0))
    for y in range(y0, y1, step):
        band = Box((y, x0), (min(y + step, y1), x1))
        pixels = np.ascontiguousarray(read(band))
        target = rows[y - y0 : y - y0 + len(pixels)]
        _along_x(pixels, horizontal.first - x0, horizontal.count, horizontal.weight, target)
    return rows


@kernel
def _along_x(
    pixels: NDArray[np.uint8],
    first: NDArray[np.int64],
    count: NDArray[np.int64],
    weight: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    for y in range(pixels.shape[0]):
        for i in range(first.size):
            red = green = blue = np.float32(0)
            for k in range(count[i]):
                w = weight[i, k]
                x = first[i] + k
                red += w * np.float32(pixels[y, x, 0])
                green += w * np.float32(pixels[y, x, 1])
                blue += w * np.float32(pixels[y, x, 2])
            out[y, i, 0] = red
            out[y, i, 1] = green
            out[y, i, 2] = blue


@kernel
def _along_y(
    rows: NDArray[np.float32],
    first: NDArray[np.int64],
    count: NDArray[np.int64],
    weight: NDArray[np.float32],
) -> NDArray[np.uint8]:
    width = rows.shape[1] * rows.shape[2]
    flat = rows.reshape(rows.shape[0], width)
    out = np.empty((first.size, width), dtype=np.uint8)
    line = np.empty(width, dtype=np.float32)
    for i in range(first.size):
        line[:] = np.float32(0)
        for k in range(count[i]):
            w = weight[i, k]
            y = first[i] + k
            for x in range(width):
                line[x] += w * flat[y, x]
        for x in range(width):
            value = line[x] + np.float32(0.5)
            out[i, x] = np.uint8(min(np.float32(255), max(np.float32(0), value)))
    return out.reshape(first.size, rows.shape[1], rows.shape[2])
