"""Links: which neighbouring pixels belong together, and the objects that follow from it.

A links map is uint8: bit ``FOREGROUND`` says that a pixel belongs to an object, bit i that it
belongs to the same one as the next pixel along axis i. Objects are the connected components, so
they are face-connected (4 neighbours in 2-D, 6 in 3-D). Because a link is a statement about two
adjacent pixels, tiles can be labelled apart and joined again without loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SpaceError
from wsiseg.jit import kernel

__all__ = ["FOREGROUND", "components", "inner_links", "links_of"]

FOREGROUND = np.uint8(0x80)
"""Bit of a links map: this pixel belongs to an object."""

MAX_NDIM = 7  # bits below FOREGROUND


def links_of(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Links ``(*s)`` of labels ``(*s)``: adjacent pixels of one label are linked, 0 is outside."""
    if labels.ndim > MAX_NDIM:
        raise SpaceError(f"links hold at most {MAX_NDIM} axes, got labels of {labels.ndim}")
    links = np.where(labels != 0, FOREGROUND, np.uint8(0))
    for axis in range(labels.ndim):
        here, after = _pair(axis, labels.ndim)
        same = (labels[here] == labels[after]) & (labels[here] != 0)
        links[here] |= same.astype(np.uint8) << np.uint8(axis)
    return links


def inner_links(links: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A C-ordered copy without the links that lead out of the array."""
    inner = np.array(links, dtype=np.uint8, order="C")
    for axis in range(links.ndim):
        last = (slice(None),) * axis + (slice(-1, None),)
        inner[last] &= ~np.uint8(1 << axis)
    return inner


def components(links: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Labels ``(*s)`` of the objects of ``links`` ``(*s)``, 1.. in raster order of first pixels."""
    if links.size >= np.iinfo(np.int32).max:
        raise SpaceError(f"links of shape {links.shape} are too large to label in one piece")
    steps = np.array(_element_strides(links.shape), dtype=np.int64)
    return _components(inner_links(links).ravel(), steps).reshape(links.shape)


def _pair(axis: int, ndim: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    before, rest = (slice(None),) * axis, (slice(None),) * (ndim - axis - 1)
    return (*before, slice(None, -1), *rest), (*before, slice(1, None), *rest)


def _element_strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]


@kernel
def _components(links: NDArray[np.uint8], steps: NDArray[np.int64]) -> NDArray[np.int32]:
    parent = np.empty(links.size, dtype=np.int32)
    for p in range(links.size):
        parent[p] = p
    for p in range(links.size):
        bits = links[p]
        if bits < 128:
            continue
        for axis in range(steps.size):
            if bits & (1 << axis):
                q = p + steps[axis]
                if links[q] >= 128:
                    a, b = p, q
                    while parent[a] != a:
                        parent[a] = parent[parent[a]]
                        a = parent[a]
                    while parent[b] != b:
                        parent[b] = parent[parent[b]]
                        b = parent[b]
                    if a < b:  # the root is the first pixel in raster order
                        parent[b] = a
                    else:
                        parent[a] = b
    count = 0
    for p in range(links.size):  # a parent precedes its children, so it is already a label
        if links[p] < 128:
            parent[p] = 0
        elif parent[p] == p:
            count += 1
            parent[p] = count
        else:
            parent[p] = parent[parent[p]]
    return parent
