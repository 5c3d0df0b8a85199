"""Nuclei that may overlap into one label image, and the count of what that hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.metrics.polygons import pixel_spans
from wsiseg.training.readers.reading import Reading

__all__ = ["Painted", "paint", "stack"]

_SAME = 0.8  # part of a nucleus under others: beyond, it was drawn twice


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """A label image of N objects, painted from the largest to the smallest."""

    labels: NDArray[np.int32]
    """(H, W): 0 background, else 1 + place of the object."""
    hidden: NDArray[np.int64]
    """(N,) px of each object that lie under others."""
    size: NDArray[np.int64]
    """(N,) px of each object on the image."""

    @property
    def duplicates(self) -> int:
        """Objects that lie under others for the most part."""
        return int(np.count_nonzero((self.size > 0) & (self.hidden > _SAME * self.size)))

    def report(self, name: object, reading: Reading) -> None:
        """Note overlaps and duplicates."""
        n, px = int(np.count_nonzero(self.size)), int(self.hidden.sum())
        total = int(self.size.sum())
        touched = int(np.count_nonzero(self.hidden))
        reading.note(
            name,
            "overlap",
            f"{touched} of {n} nuclei overlap others, {px} of {total} px",
            px,
            total,
        )
        reading.note(
            name,
            "duplicate",
            f"{self.duplicates} of {n} nuclei lie under others (drawn twice?)",
            self.duplicates,
            n,
        )


def paint(outlines: NDArray[Any], shape: tuple[int, int]) -> Painted:
    """Label image of (N,) valid shapely (Multi)Polygons, corner-based (x, y) px.

    A polygon owns the pixels whose centres it holds (``pixel_spans``).
    """
    spans = pixel_spans(outlines, shape)
    length = spans.length
    owner = np.repeat(spans.object, length)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    pixel = np.repeat(spans.row * shape[1] + spans.start, length) + step
    return _painted(owner, pixel, len(outlines), shape)


def stack(layers: Sequence[NDArray[Any]]) -> Painted:
    """Label image of label images (H, W) on top of each other, each numbered 1.. without gaps.

    The objects of a layer follow those of the layers before it.
    """
    owner, pixel, n = [], [], 0
    for layer in layers:
        inside = np.flatnonzero(layer)
        pixel.append(inside)
        owner.append(layer.reshape(-1)[inside].astype(np.intp) - 1 + n)
        n += int(layer.max(initial=0))
    shape = (layers[0].shape[0], layers[0].shape[1])
    return _painted(np.concatenate(owner), np.concatenate(pixel), n, shape)


def _painted(
    owner: NDArray[np.intp], pixel: NDArray[np.intp], n: int, shape: tuple[int, int]
) -> Painted:
    size = np.bincount(owner, minlength=n)
    # from the top: of equal ones the later is below, so that a copy hides and is counted
    rank = np.empty(n, dtype=np.intp)
    rank[np.lexsort((np.arange(n), size))] = np.arange(n)
    order = np.lexsort((rank[owner], pixel))
    owner, pixel = owner[order], pixel[order]
    top = np.ones(len(pixel), dtype=np.bool_)
    top[1:] = pixel[1:] != pixel[:-1]
    labels = np.zeros(shape, dtype=np.int32)
    labels.reshape(-1)[pixel[top]] = owner[top] + 1
    hidden = np.bincount(owner[~top], minlength=n)
    return Painted(labels, hidden.astype(np.int64), size.astype(np.int64))
