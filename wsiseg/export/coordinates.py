"""Coordinates as JSON: the shortest decimals of numbers that are whole multiples of 0.01."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsiseg.export.texts import Texts
from wsiseg.jit import kernel

__all__ = ["FARTHEST", "ring_texts"]

FARTHEST = 1e12
"""px; hundredths up to here are exact in float64, and no slide is as large."""


def ring_texts(xy: NDArray[np.float64], offsets: NDArray[np.int64]) -> Texts:
    """``[x,y],[x,y]`` of the vertices (V, 2) of each ring ``offsets[i]:offsets[i + 1]``.

    Coordinates are on the 0.01 px grid, at most ``FARTHEST`` from 0.
    """
    digits = len(str(int(np.abs(xy).max(initial=0.0)) + 1))
    text = np.empty(len(xy) * 2 * (digits + len("[-.00,")), dtype=np.uint8)
    return Texts(text, *_format(np.ascontiguousarray(xy), offsets, text))


@kernel
def _format(
    xy: NDArray[np.float64], offsets: NDArray[np.int64], text: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.empty(offsets.size - 1, dtype=np.int64)
    stops = np.empty(offsets.size - 1, dtype=np.int64)
    n = 0
    for ring in range(offsets.size - 1):
        starts[ring] = n
        for v in range(offsets[ring], offsets[ring + 1]):
            text[n] = 91  # [
            n = _put(xy[v, 0], text, n + 1)
            text[n] = 44  # ,
            n = _put(xy[v, 1], text, n + 1)
            text[n] = 93  # ]
            text[n + 1] = 44
            n += 2
        n -= 1
        stops[ring] = n
    return starts, stops


@kernel
def _put(value: float, text: NDArray[np.uint8], n: int) -> int:
    """Write ``value`` at ``n``; return the place after it."""
    hundredths = np.int64(np.rint(abs(value) * 100.0))
    whole, rest = hundredths // 100, hundredths % 100
    if value < 0 and hundredths > 0:
        text[n] = 45  # -
        n += 1
    length = 1
    power = np.int64(10)
    while power <= whole:
        power *= 10
        length += 1
    for k in range(n + length - 1, n - 1, -1):
        text[k] = 48 + whole % 10
        whole //= 10
    n += length
    if rest:
        text[n] = 46  # .
        text[n + 1] = 48 + rest // 10
        n += 2
        if rest % 10:
            text[n] = 48 + rest % 10
            n += 1
    return n
