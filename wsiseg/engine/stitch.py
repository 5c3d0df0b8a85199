"""Every object once: fragments of regions joined where a link leads across a face.

Cost is proportional to the pixels on faces; no slide-sized image, no step over all objects. Regions
are taken row by row (along axis 0): what is held is the faces of one row, one pair of codes for
each meeting of two fragments, and the objects that are not yet whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from wsiseg.cells.objects import Objects, merge
from wsiseg.engine.twins import VIEW_COLUMNS, agreed
from wsiseg.errors import ModelError

__all__ = ["Fragments", "Gathering", "Joins", "find_joins", "stitch", "whole_objects"]

Regions = Iterable[tuple[int, "Fragments"]]
"""Regions by number, with what was found in each."""


@dataclass(frozen=True, slots=True)
class Fragments:
    """What one region found inside its core."""

    objects: Objects
    """The fragments: objects, or parts of them that were cut by the core."""
    leads_to: NDArray[np.int32]
    """(M, n + 1): a pixel of another region that belongs to a fragment here, and the fragment."""
    entered_at: NDArray[np.int32]
    """(L, n + 1): a pixel on a low face of the core, and the fragment it belongs to."""
    views: NDArray[np.int64]
    """(S, 5): what the region sees around its faces (see twins.py); (0, 5) for a LocalModel."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As named arrays, for storing."""
        own = {name: getattr(self.objects, name) for name in ("runs", "offsets", "sums")}
        return own | {name: getattr(self, name) for name in ("leads_to", "entered_at", "views")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Fragments:
        """From the arrays of ``arrays``."""
        objects = Objects(arrays["runs"], arrays["offsets"], arrays["sums"])
        rest = (arrays[k] for k in ("leads_to", "entered_at", "views"))
        return cls(objects, *rest)


@dataclass(frozen=True, slots=True)
class Joins:
    """Which fragments belong to one object."""

    nodes: NDArray[np.int64]
    """(F,) sorted codes of the fragments that were joined to others."""
    group: NDArray[np.int64]
    """(F,) the object of each, 0..count-1."""
    count: int
    """Number of joined objects."""

    def groups_in(self, region: int, fragments: int) -> NDArray[np.int64]:
        """(fragments,) group of each fragment of ``region``; -1 where it stands alone."""
        groups = np.full(fragments, -1, dtype=np.int64)
        low, high = np.searchsorted(self.nodes, [_code(region, 0), _code(region + 1, 0)])
        groups[self.nodes[low:high] - _code(region, 0)] = self.group[low:high]
        return groups

    @property
    def regions(self) -> NDArray[np.int64]:
        """(F,) the region of each of ``nodes``."""
        return self.nodes >> _FRAGMENT_BITS

    def heights(self, per_row: int) -> NDArray[np.int64]:
        """(count,) rows of regions from the first to the last that an object lies in."""
        rows = self.regions // per_row
        first, last = np.full(self.count, np.iinfo(np.int64).max), np.zeros(self.count, np.int64)
        np.minimum.at(first, self.group, rows)
        np.maximum.at(last, self.group, rows)
        return np.asarray(last - first + 1)

    def only(self, wanted: NDArray[np.bool_]) -> Joins:
        """The joins of the ``wanted`` (count,) objects, numbered anew in the same order."""
        kept, number = wanted[self.group], np.cumsum(wanted) - 1
        return Joins(self.nodes[kept], number[self.group[kept]], int(wanted.sum()))


def find_joins(rows: Iterable[tuple[int, Regions]], shape: tuple[int, ...]) -> Joins:
    """Joins of the fragments of all regions of a lattice of ``shape``.

    ``rows`` are (stop, regions) from first to last, ``stop`` being the first index along axis 0
    beyond the cores of the regions, the last one ``shape[0]``; within a row in any order.
    Raises ModelError if a link leads to a pixel that its own region did not take for foreground:
    then the decode is not local within ``spec.reach``.
    """
    faces, edges = _Faces(shape), [(_NO_CODES, _NO_CODES)]
    for stop, regions in rows:
        for region, fragments in regions:
            faces.add(region, fragments)
        edges.append(faces.settled(stop))
    one, other = (np.concatenate(codes) for codes in zip(*edges, strict=True))
    return _joined(one, other)


class _Faces:
    """What regions say at faces that are not settled: links out, entries, and views of labels."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape, self._seen = shape, -1
        self._leads = [np.zeros((0, 2), np.int64)]  # code of the fragment, place it leads to
        self._entries = [np.zeros((0, 2), np.int64)]  # code of the fragment, place on its face
        self._views = [np.zeros((0, VIEW_COLUMNS), np.int64)]

    def add(self, region: int, found: Fragments) -> None:
        self._leads.append(_coded(region, found.leads_to, self._shape))
        self._entries.append(_coded(region, found.entered_at, self._shape))
        self._views.append(found.views)
        self._seen = max(self._seen, region)

    def settled(self, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes of both fragments at each link into a region whose core begins below ``stop``.

        Links lead only to later regions: no later row will ask for the entries again.
        """
        leads, entries, views = map(np.concatenate, (self._leads, self._entries, self._views))
        now = leads[:, 1] < stop * np.prod(self._shape[1:], dtype=np.int64)
        self._leads, self._entries = [leads[~now]], [entries[:0]]
        self._views = [views[views[:, 1] > self._seen]]  # the region above the face is to come
        return _met(leads[now], entries, views, self._shape)


def _met(
    leads: NDArray[np.int64],
    entries: NDArray[np.int64],
    views: NDArray[np.int64],
    shape: tuple[int, ...],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    source, target = leads.T
    entry, first = np.unique(entries[:, 1], return_index=True)
    owner = entries[first, 0]
    at = np.minimum(np.searchsorted(entry, target), max(len(entry) - 1, 0))
    met = entry[at] == target if len(entry) else np.zeros(len(target), bool)
    if not len(views) and not met.all():
        raise _not_local(target[~met], shape)
    one, other = source[met], owner[at[met]]
    if len(views):
        regions = [code >> _FRAGMENT_BITS for code in (one, other)]
        same = agreed(views, np.column_stack([*regions, target[met]]))
        one, other = one[same], other[same]
    # two fragments meet along many pixels, nearly all of them in sequence: once is enough
    fresh = np.ones(len(one), bool)
    fresh[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    return one[fresh], other[fresh]


def _not_local(lost: NDArray[np.int64], shape: tuple[int, ...]) -> ModelError:
    where = tuple(map(int, np.unravel_index(int(lost[0]), shape)))
    return ModelError(
        f"{len(lost)} links lead to pixels that are background in their own region, the first at "
        f"{where} of the lattice: the model's decode looks further than the reach its spec states"
    )


def stitch(found: Mapping[int, Fragments], shape: tuple[int, ...], sums: int) -> Objects:
    """All objects, in raster order of their first pixels, of fragments held in memory."""
    joins = find_joins([(shape[0], found.items())], shape)
    gathered = Gathering(joins, len(shape), sums)
    for region, fragments in found.items():
        gathered.add(region, fragments)
    whole = [whole_objects(fragments, joins, region) for region, fragments in found.items()]
    every = Objects.concatenate([gathered.completed(), *whole])
    return every.take(np.lexsort(every.anchors.T[::-1]))


def whole_objects(fragments: Fragments, joins: Joins, region: int) -> Objects:
    """The fragments of one region that are objects by themselves."""
    return fragments.objects.take(joins.groups_in(region, len(fragments.objects)) < 0)


class Gathering:
    """The objects that lie in more than one region, each merged once its last part is there."""

    def __init__(self, joins: Joins, ndim: int, sums: int) -> None:
        self._joins, self._lacking = joins, np.bincount(joins.group, minlength=joins.count)
        self._parts, self._groups = [Objects.none(ndim, sums)], [_NO_CODES]

    def add(self, region: int, fragments: Fragments) -> None:
        """Take what ``region``, not added before, has of these objects."""
        group = self._joins.groups_in(region, len(fragments.objects))
        self._parts.append(fragments.objects.take(group >= 0))
        self._groups.append(group[group >= 0])
        np.subtract.at(self._lacking, self._groups[-1], 1)

    def completed(self) -> Objects:
        """The objects that have become whole since the last call."""
        parts, group = Objects.concatenate(self._parts), np.concatenate(self._groups)
        ready = self._lacking[group] == 0
        self._parts, self._groups = [parts.take(~ready)], [group[~ready]]
        names, index = np.unique(group[ready], return_inverse=True)
        return merge(parts.take(ready), index.ravel(), len(names))

    @property
    def anchors(self) -> NDArray[np.int32]:
        """(P, n) anchors of the parts of objects that are not whole yet."""
        return np.concatenate([parts.anchors for parts in self._parts])


_NO_CODES = np.zeros(0, dtype=np.int64)
_FRAGMENT_BITS = 32


def _code(region: int, fragment: NDArray[np.int32] | int) -> NDArray[np.int64]:
    return np.asarray((np.int64(region) << _FRAGMENT_BITS) + np.asarray(fragment, np.int64))


def _coded(region: int, rows: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(M, 2) codes of the fragments in the last column, raster places of the pixels before it."""
    places = np.ravel_multi_index(tuple(rows[:, :-1].T.astype(np.int64)), shape)
    return np.column_stack([_code(region, rows[:, -1]), places.astype(np.int64)])


def _joined(one: NDArray[np.int64], other: NDArray[np.int64]) -> Joins:
    nodes, index = np.unique(np.concatenate([one, other]), return_inverse=True)
    if not len(nodes):
        return Joins(nodes, nodes, 0)
    edges = (np.ones(len(one), np.int8), (index[: len(one)], index[len(one) :]))
    count, group = connected_components(coo_matrix(edges, (len(nodes),) * 2), directed=False)
    return Joins(nodes, group.astype(np.int64), int(count))
