"""Overlaps: who overlaps whom, and by how much, as a sparse table. No metric is computed here.

Everything in ``wsiseg.metrics`` starts from this table, so a million true objects against a
million predictions cost the pairs that do overlap, not the product. Tables of disjoint parts of
an image add up to the table of the whole, so a slide is compared block by block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError, SpaceError

__all__ = ["CHUNK", "Ids", "Overlaps", "check_labels", "count_overlaps", "label_sizes", "sum_pairs"]

Ids = NDArray[np.uint64]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

CHUNK = 1 << 22  # px looked at together: the temporaries of one chunk stay near 100 MB
_SAME = 1e-9  # relative: sums of areas that differ by less are the same area


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Sizes of T true and P predicted objects, and of the K intersections that are not empty.

    Sizes are pixel (voxel) counts, or areas where polygons were compared; float64 in both cases,
    in which counts below 2**53 are exact.
    """

    truth_id: Ids
    """(T,) ids of the true objects, ascending."""
    truth_size: Floats
    """(T,) size of each true object."""
    pred_id: Ids
    """(P,) ids of the predicted objects, ascending."""
    pred_size: Floats
    """(P,) size of each predicted object."""
    truth: Indices
    """(K,) place in ``truth_id`` of each pair; pairs ascend by (truth, pred)."""
    pred: Indices
    """(K,) place in ``pred_id`` of each pair."""
    size: Floats
    """(K,) size of the intersection of each pair, > 0."""
    foreground: tuple[float, float, float]
    """Size of all truth, of all predictions, and of what both cover; differs from the sums only
    where polygons of one side overlap each other."""

    @classmethod
    def build(
        cls,
        truth: tuple[Ids, Floats],
        pred: tuple[Ids, Floats],
        pairs: tuple[Indices, Indices, Floats],
        foreground: tuple[float, float, float] | None = None,
    ) -> Overlaps:
        """A table from (ids ascending, sizes) of both sides and from (truth, pred, size) of pairs.

        Pairs name places in the ids, each pair once, in any order.
        """
        rows, cols, size = pairs
        order = np.lexsort((cols, rows))
        if foreground is None:
            foreground = (float(truth[1].sum()), float(pred[1].sum()), float(size.sum()))
        return cls(*truth, *pred, rows[order], cols[order], size[order], foreground)

    @classmethod
    def merge(cls, tables: Iterable[Overlaps]) -> Overlaps:
        """The table of the whole from those of its disjoint parts; an object may be in several."""
        parts = list(tables)
        truth_id, truth_size = _sum_by_id([(t.truth_id, t.truth_size) for t in parts])
        pred_id, pred_size = _sum_by_id([(t.pred_id, t.pred_size) for t in parts])
        rows = [np.searchsorted(truth_id, t.truth_id)[t.truth] for t in parts]
        cols = [np.searchsorted(pred_id, t.pred_id)[t.pred] for t in parts]
        pairs = sum_pairs(_cat(rows, np.intp), _cat(cols, np.intp), [t.size for t in parts])
        whole = np.sum([t.foreground for t in parts], axis=0) if parts else np.zeros(3)
        fore = (float(whole[0]), float(whole[1]), float(whole[2]))
        return cls.build((truth_id, truth_size), (pred_id, pred_size), pairs, fore)

    def add(self, other: Overlaps) -> Overlaps:
        """The table of two disjoint parts of one image together (``merge`` takes many at once)."""
        return Overlaps.merge([self, other])

    @property
    def iou(self) -> Floats:
        """(K,) intersection over union of each pair."""
        return np.asarray(self.size / self.union)

    @property
    def union(self) -> Floats:
        """(K,) size of the union of each pair."""
        return np.asarray(self.truth_size[self.truth] + self.pred_size[self.pred] - self.size)

    @property
    def empty(self) -> bool:
        """Whether there is no object on either side."""
        return len(self.truth_id) == 0 and len(self.pred_id) == 0

    def swap(self) -> Overlaps:
        """The same table with truth and prediction exchanged."""
        t, p, both = self.foreground
        mine, theirs = (self.truth_id, self.truth_size), (self.pred_id, self.pred_size)
        return Overlaps.build(theirs, mine, (self.pred, self.truth, self.size), (p, t, both))

    def restrict(self, truth: NDArray[np.bool_], pred: NDArray[np.bool_]) -> Overlaps:
        """The table of some objects only, for instance of one class.

        ``truth`` (T,) and ``pred`` (P,) say who stays. Raises SpaceError where objects of one
        side overlap each other: their common foreground is not known then, so build the table
        anew from the polygons that stay.
        """
        sums = (self.truth_size.sum(), self.pred_size.sum(), self.size.sum())
        if not np.allclose(sums, self.foreground, rtol=_SAME, atol=0):
            raise SpaceError(
                "a table of polygons that overlap others of their own side cannot be restricted; "
                "call polygon_overlaps with the polygons that stay"
            )
        keep = truth[self.truth] & pred[self.pred]
        rows = (np.cumsum(truth) - 1)[self.truth[keep]]
        cols = (np.cumsum(pred) - 1)[self.pred[keep]]
        return Overlaps.build(
            (self.truth_id[truth], self.truth_size[truth]),
            (self.pred_id[pred], self.pred_size[pred]),
            (rows, cols, self.size[keep]),
        )


def count_overlaps(truth: NDArray[Any], pred: NDArray[Any]) -> Overlaps:
    """The table of two label images of one shape, in any number of dimensions.

    Any integer dtype and any ids >= 0 (0 is background); ids need not be contiguous, and an
    object is all pixels of one id, connected or not. Streams over the first axis, so memory
    follows the number of objects (memory-mapped arrays are welcome).

    Raises SpaceError where the shapes differ, InputFileError where ids are negative or not
    integers.

    >>> count_overlaps(np.array([1, 1, 0, 9]), np.array([0, 5, 5, 5])).size
    array([1., 1.])
    """
    if truth.shape != pred.shape:
        raise SpaceError(
            f"truth and prediction must have one shape, got {truth.shape} and {pred.shape}; "
            "crop or resample one of them first"
        )
    check_labels(truth, "truth")
    check_labels(pred, "prediction")
    return Overlaps.merge(_table(*_runs(a, b)) for a, b in _chunks(truth, pred))


def label_sizes(labels: NDArray[Any]) -> tuple[Ids, Floats]:
    """Ids (N,) of a label image, ascending and without 0, and their pixel counts (N,)."""
    table = count_overlaps(labels, np.broadcast_to(np.uint8(0), labels.shape))
    return table.truth_id, table.truth_size


def check_labels(labels: NDArray[Any], side: str) -> None:
    """Raise InputFileError where ``labels`` are not integers."""
    if labels.dtype.kind in "iu":
        return
    remedy = "label its connected components first" if labels.dtype.kind == "b" else "cast it"
    raise InputFileError(
        f"the {side} must be a label image of integers (0 background, one id per object), "
        f"got {labels.dtype}; {remedy}"
    )


def _chunks(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Flat pieces of both arrays over the same pixels."""
    if a.ndim == 0 or a.size == 0:
        return
    rows = max(1, CHUNK // max(1, a.size // len(a)))
    for i in range(0, len(a), rows):
        yield a[i : i + rows].reshape(-1), b[i : i + rows].reshape(-1)


def _runs(truth: NDArray[Any], pred: NDArray[Any]) -> tuple[Ids, Ids, Floats]:
    """Truth id, predicted id and length of each run of equal pairs, background runs left out.

    truth 1 1 0 9, pred 0 5 5 5  ->  (1, 0) x 1, (1, 5) x 1, (0, 5) x 1, (9, 5) x 1
    """
    change = truth[1:] != truth[:-1]
    change |= pred[1:] != pred[:-1]
    start = np.concatenate([[0], np.flatnonzero(change) + 1])
    length = np.diff(start, append=truth.size).astype(np.float64)
    t, p = truth[start], pred[start]
    if min(t.min(), p.min()) < 0:
        raise InputFileError(
            f"ids of label images must be >= 0, got {min(t.min(), p.min())}; "
            "give ignored pixels the id 0 on both sides"
        )
    keep = (t != 0) | (p != 0)
    return t[keep].astype(np.uint64), p[keep].astype(np.uint64), length[keep]


def _table(truth: Ids, pred: Ids, size: Floats) -> Overlaps:
    """The table of (truth id, predicted id, size) entries; id 0 is background."""
    truth_id, truth_size = _sum_by_id([(truth[truth > 0], size[truth > 0])])
    pred_id, pred_size = _sum_by_id([(pred[pred > 0], size[pred > 0])])
    both = (truth > 0) & (pred > 0)
    rows = np.searchsorted(truth_id, truth[both])
    cols = np.searchsorted(pred_id, pred[both])
    pairs = sum_pairs(rows, cols, [size[both]])
    return Overlaps.build((truth_id, truth_size), (pred_id, pred_size), pairs)


def _sum_by_id(parts: list[tuple[Ids, Floats]]) -> tuple[Ids, Floats]:
    ids, place = np.unique(_cat([p[0] for p in parts], np.uint64), return_inverse=True)
    weights = _cat([p[1] for p in parts], np.float64)
    return ids, np.bincount(place, weights=weights, minlength=len(ids)).astype(np.float64)


def sum_pairs(rows: Indices, cols: Indices, sizes: list[Floats]) -> tuple[Indices, Indices, Floats]:
    """Each (row, col) once, with the sum of its sizes; packed into one uint64 to be sorted."""
    width = np.uint64(cols.max() + 1 if len(cols) else 1)
    packed = rows.astype(np.uint64) * width + cols.astype(np.uint64)
    keys, place = np.unique(packed, return_inverse=True)
    total = np.bincount(place, weights=_cat(sizes, np.float64), minlength=len(keys))
    return (keys // width).astype(np.intp), (keys % width).astype(np.intp), total.astype(np.float64)


def _cat(arrays: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)
