"""Every object once: fragments of regions joined where a link leads across a face.

Cost is proportional to the pixels on faces; no slide-sized image, no step over all objects.
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


def find_joins(found: Iterable[tuple[int, Fragments]], shape: tuple[int, ...]) -> Joins:
    """Joins of the fragments of all regions, given as (region number, fragments) in any order.

    Raises ModelError if a link leads to a pixel that its own region did not take for foreground:
    then the decode is not local within ``spec.reach``.
    """
    faces = _Faces()
    for region, fragments in found:
        faces.add(region, fragments, shape)
    source, target = faces.edges(shape)
    return _joined(source, target)


class _Faces:
    """What all regions say at their faces: links out, entries, and views of labels."""

    def __init__(self) -> None:
        self._source, self._target = [_NO_CODES], [_NO_CODES]
        self._owner, self._entry = [_NO_CODES], [_NO_CODES]
        self._views = [np.zeros((0, VIEW_COLUMNS), np.int64)]

    def add(self, region: int, found: Fragments, shape: tuple[int, ...]) -> None:
        self._source.append(_code(region, found.leads_to[:, -1]))
        self._target.append(_place(found.leads_to, shape))
        self._owner.append(_code(region, found.entered_at[:, -1]))
        self._entry.append(_place(found.entered_at, shape))
        self._views.append(found.views)

    def edges(self, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes of the fragments at both ends of each link between regions."""
        source, target = np.concatenate(self._source), np.concatenate(self._target)
        entry, first = np.unique(np.concatenate(self._entry), return_index=True)
        owner, views = np.concatenate(self._owner)[first], np.concatenate(self._views)
        at = np.minimum(np.searchsorted(entry, target), max(len(entry) - 1, 0))
        met = entry[at] == target if len(entry) else np.zeros(len(target), bool)
        if not len(views) and not met.all():
            raise _not_local(target[~met], shape)
        one, other = source[met], owner[at[met]]
        if len(views):
            regions = [code >> _FRAGMENT_BITS for code in (one, other)]
            same = agreed(views, np.column_stack([*regions, target[met]]))
            one, other = one[same], other[same]
        return one, other


def _not_local(lost: NDArray[np.int64], shape: tuple[int, ...]) -> ModelError:
    where = tuple(map(int, np.unravel_index(int(lost[0]), shape)))
    return ModelError(
        f"{len(lost)} links lead to pixels that are background in their own region, the first at "
        f"{where} of the lattice: the model's decode looks further than the reach its spec states"
    )


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
