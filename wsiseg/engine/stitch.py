"""Every object once: fragments of regions joined where a link leads across a face.

Cost is proportional to the pixels on faces; no slide-sized image, no step over all objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from wsiseg.cells.objects import Objects, merge
from wsiseg.errors import ModelError

__all__ = [
    "Fragments",
    "Joins",
    "find_joins",
    "joined_objects",
    "stitch",
    "whole_objects",
]


@dataclass(frozen=True, slots=True)
class Fragments:
    """What one region found inside its core."""

    objects: Objects
    """The fragments: objects, or parts of them that were cut by the core."""
    leads_to: NDArray[np.int32]
    """(M, n + 1): a pixel of another region that belongs to a fragment here, and the fragment."""
    entered_at: NDArray[np.int32]
    """(L, n + 1): a pixel on a low face of the core, and the fragment it belongs to."""


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


def find_joins(faces: Iterable[tuple[int, Fragments]], shape: tuple[int, ...]) -> Joins:
    """Joins of the fragments of all regions, given as (region number, fragments) in any order.

    Raises ModelError if a link leads to a pixel that its own region did not take for foreground:
    then the decode is not local within ``spec.reach``.
    """
    sources, targets, entries, owners = [_NO_CODES], [_NO_CODES], [_NO_CODES], [_NO_CODES]
    for region, found in faces:
        sources.append(_code(region, found.leads_to[:, -1]))
        targets.append(_place(found.leads_to, shape))
        owners.append(_code(region, found.entered_at[:, -1]))
        entries.append(_place(found.entered_at, shape))
    source, target = np.concatenate(sources), np.concatenate(targets)
    owner, entry = np.concatenate(owners), np.concatenate(entries)
    order = np.argsort(entry, kind="stable")
    entry, owner = entry[order], owner[order]
    at = np.minimum(np.searchsorted(entry, target), max(len(entry) - 1, 0))
    lost = np.ones(len(target), bool) if not len(entry) else entry[at] != target
    if lost.any():
        where = np.unravel_index(int(target[lost][0]), shape)
        raise ModelError(
            f"{int(lost.sum())} links lead to pixels that are background in their own region, "
            f"the first at {tuple(map(int, where))} of the lattice: the model's decode looks "
            "further than the reach that its spec states"
        )
    return _joined(source, owner[at] if len(target) else _NO_CODES)


def stitch(found: Mapping[int, Fragments], shape: tuple[int, ...], sums: int) -> Objects:
    """All objects, in raster order of their first pixels, of fragments held in memory."""
    joins = find_joins(found.items(), shape)
    whole = [whole_objects(fragments, joins, region) for region, fragments in found.items()]
    every = Objects.concatenate([joined_objects(found.items(), joins, len(shape), sums), *whole])
    return every.take(np.lexsort(every.anchors.T[::-1]))


def whole_objects(fragments: Fragments, joins: Joins, region: int) -> Objects:
    """The fragments of one region that are objects by themselves."""
    return fragments.objects.take(joins.groups_in(region, len(fragments.objects)) < 0)


def joined_objects(
    regions: Iterable[tuple[int, Fragments]], joins: Joins, ndim: int, sums: int
) -> Objects:
    """The objects that lie in more than one region, each merged from its fragments."""
    parts, groups = [Objects.none(ndim, sums)], [_NO_CODES]
    for region, fragments in regions:
        group = joins.groups_in(region, len(fragments.objects))
        parts.append(fragments.objects.take(group >= 0))
        groups.append(group[group >= 0])
    return merge(Objects.concatenate(parts), np.concatenate(groups), joins.count)


_NO_CODES = np.zeros(0, dtype=np.int64)
_FRAGMENT_BITS = 32


def _code(region: int, fragment: NDArray[np.int32] | int) -> NDArray[np.int64]:
    return np.asarray((np.int64(region) << _FRAGMENT_BITS) + np.asarray(fragment, np.int64))


def _place(rows: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Raster position of the pixels in the first n columns."""
    return np.asarray(np.ravel_multi_index(tuple(rows[:, :-1].T.astype(np.int64)), shape))


def _joined(one: NDArray[np.int64], other: NDArray[np.int64]) -> Joins:
    nodes, index = np.unique(np.concatenate([one, other]), return_inverse=True)
    if not len(nodes):
        return Joins(nodes, nodes, 0)
    edges = (np.ones(len(one), np.int8), (index[: len(one)], index[len(one) :]))
    count, group = connected_components(coo_matrix(edges, (len(nodes),) * 2), directed=False)
    return Joins(nodes, group.astype(np.int64), int(count))
