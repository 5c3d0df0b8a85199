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

__all__ = ["FOREGROUND", "components", "eight", "inner_links", "links_of", "next_nonzero"]

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
    steps = tuple(_element_strides(links.shape))
    return _components(inner_links(links).ravel(), steps).reshape(links.shape)


def _pair(axis: int, ndim: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    before, rest = (slice(None),) * axis, (slice(None),) * (ndim - axis - 1)
    return (*before, slice(None, -1), *rest), (*before, slice(1, None), *rest)


def _element_strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]


@kernel
def next_nonzero(line: NDArray[Any], x: int) -> int:
    """The first place from ``x`` on in ``line`` (n,) that is not 0, or n; most of a slide is 0."""
    while x + 8 <= line.size and not eight(line, x):
        x += 8
    while x < line.size and line[np.uint64(x)] == 0:
        x += 1
    return x


@kernel
def eight(line: NDArray[Any], x: int) -> Any:
    """The bits of ``line[x : x + 8]``, taken together: 0 where all are."""
    bits = line[np.uint64(x)]  # of unsigned places, none is asked whether it counts from the end
    for k in range(1, 8):
        bits |= line[np.uint64(x) + np.uint64(k)]
    return bits


@kernel
def _components(links: NDArray[np.uint8], steps: tuple[int, ...]) -> NDArray[np.int32]:
    """Labels of flattened ``links`` that lead to no pixel outside; line by line, in pieces whose
    pixels are linked along the last axis.
    """
    last = len(steps) - 1
    labels = np.zeros(links.size, dtype=np.int32)
    parent = np.empty(links.size + 1, dtype=np.int32)  # of labels; touched as far as there are any
    starts = np.empty(links.size + 1, dtype=np.int32)  # of pieces, likewise
    stops = np.empty(links.size + 1, dtype=np.int32)
    count = pieces = 0
    p = next_nonzero(links, 0)
    while p < links.size:
        if links[p] < 128:
            p = next_nonzero(links, p + 1)
            continue
        label, first, linked = np.int32(0), p, True
        while linked:
            for axis in range(last):
                q = p - steps[axis]
                if q >= 0 and links[q] >= 128 and links[q] >> axis & 1 and labels[q] != label:
                    if label == 0:
                        label = labels[q]
                    else:
                        _unite(parent, label, labels[q])
            linked = links[p] >> last & 1 and links[p + 1] >= 128
            p += 1
        if label == 0:
            count += 1
            label = np.int32(count)
            parent[count] = label
        labels[first:p] = label
        starts[pieces], stops[pieces] = first, p
        pieces += 1
        if p < links.size and links[p] == 0:
            p = next_nonzero(links, p)
    objects = 0
    for k in range(1, count + 1):  # a parent precedes its children, so it is already a number
        if parent[k] == k:
            objects += 1
            parent[k] = objects
        else:
            parent[k] = parent[parent[k]]
    for k in range(pieces):
        labels[starts[k] : stops[k]] = parent[labels[starts[k]]]
    return labels


@kernel
def _unite(parent: NDArray[np.int32], a: Any, b: Any) -> None:
    """Make one tree of those of ``a`` and ``b``; its root is the lesser, which came first."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    while parent[b] != b:
        parent[b] = parent[parent[b]]
        b = parent[b]
    if a < b:
        parent[b] = a
    else:
        parent[a] = b
