"""Detection and classification by centroids, as in the HoVer-Net paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from wsiseg.errors import InputFileError, SpaceError
from wsiseg.metrics.instances import Ratio
from wsiseg.metrics.matching import TIE, Match, most
from wsiseg.metrics.overlaps import CHUNK, Ids, check_labels

__all__ = ["centroids", "match_points", "type_counts", "type_f1", "weighted_type_f1"]

Points = NDArray[np.float64]


def match_points(
    truth: NDArray[Any],
    pred: NDArray[Any],
    radius: float,
    *,
    spacing: float | Sequence[float] = 1.0,
) -> Match:
    """Pair points (N, n) with points (M, n) that lie within ``radius`` (inclusive), each once.

    ``radius`` is in px with the default ``spacing`` of 1, else in the unit of ``spacing`` (µm per
    px, one number or one per axis). The pairing has the most pairs, and among those the smallest
    sum of distances (sums are equal within 1e-9 radii); where two pairings still tie, points that
    come first are served first. ``Match.score`` holds distances.

    Graham et al. 2019, Medical Image Analysis 58 (HoVer-Net), pair within 12 px at 40x (3 µm),
    by the Hungarian method. The HoVer-Net code assigns over all distances and drops far pairs
    afterwards, which may lose pairs that this keeps.

    >>> match_points(np.array([[0.0], [3.0]]), np.array([[2.0], [9.0]]), 4).tp
    1
    """
    a, b = _scaled(truth, spacing), _scaled(pred, spacing)
    if not radius > 0:
        raise InputFileError(f"the matching radius must be > 0, got {radius}")
    rows, cols = _within(a, b, radius)
    distance = np.sqrt(((a[rows] - b[cols]) ** 2).sum(axis=1))
    inside = distance <= radius
    rows, cols, distance = rows[inside], cols[inside], distance[inside]
    chosen = most(rows, cols, 1.0 + TIE - distance / radius)
    return Match(rows[chosen], cols[chosen], distance[chosen], len(a), len(b))


def type_f1(match: Match, truth_class: NDArray[Any], pred_class: NDArray[Any], of: object) -> Ratio:
    """F_c, the F1 of class ``of``: detection and classification together.

    2 TP_c / (2 TP_c + 2 FP_c + 2 FN_c + FP_d + FN_d): of paired points TP_c have the class on both
    sides, FP_c in the prediction only, FN_c in the truth only; FP_d and FN_d are the points of the
    class without a pair (Graham et al. 2019, with the weights 2, 2, 1, 1 of the paper; its code
    counts TN_c among the pairs that have the class on a side, where there are none).
    ``truth_class`` (N,) and ``pred_class`` (M,) hold the class of each point, None where it has
    none. A prediction paired with a true point without a class can be neither right nor wrong and
    is left out, as the paper's code does where annotation is not exhaustive.
    """
    tp, fp, fn, fp_d, fn_d = type_counts(match, truth_class, pred_class, of).tolist()
    empty = tp + fp + fn + fp_d + fn_d == 0
    return Ratio(2 * tp, 2 * tp + 2 * (fp + fn) + fp_d + fn_d, empty)


def type_counts(
    match: Match, truth_class: NDArray[Any], pred_class: NDArray[Any], of: object
) -> NDArray[np.int64]:
    """(5,) counts TP_c, FP_c, FN_c, FP_d, FN_d of class ``of``; see ``type_f1``."""
    truth, pred = np.asarray(truth_class) == of, np.asarray(pred_class) == of
    known = np.asarray([c is not None for c in truth_class], dtype=np.bool_)[match.truth]
    right, called = truth[match.truth], pred[match.pred] & known
    pairs = [right & called, called & ~right, right & ~called]
    alone_pred, alone_truth = pred.copy(), truth.copy()
    alone_pred[match.pred] = alone_truth[match.truth] = False
    return np.array([side.sum() for side in (*pairs, alone_pred, alone_truth)], dtype=np.int64)


def weighted_type_f1(counts: NDArray[Any], *, with_detection: bool = False) -> NDArray[np.float64]:
    """The mean F1 of classes (..., C, 5) of ``type_counts``, weighted by the true points of each.

    Sirinukunwattana et al. 2016, IEEE TMI 35(5), weigh the classes by their number of samples. By
    default only paired points count, and F1 = 2 TP_c / (2 TP_c + FP_c + FN_c): classification
    alone, as their table for classifiers given the nuclei. ``with_detection`` also counts what was
    not found and what is not there: their table of detection and classification together. NaN
    where no true point of a known class takes part.
    """
    tp, fp, fn, fp_d, fn_d = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    weight = tp + fn
    wrong = fp + fn
    if with_detection:
        weight, wrong = weight + fn_d, wrong + fp_d + fn_d
    whole = 2 * tp + wrong
    f1 = 2 * tp / np.where(whole > 0, whole, 1.0)
    total = weight.sum(axis=-1)
    mean = (weight * f1).sum(axis=-1) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan)


def centroids(labels: NDArray[Any]) -> tuple[Ids, Points]:
    """Ids (N,) ascending and centroids (N, n) of a label image, px, axes (z, y, x).

    Corner-based: the centroid of a single pixel (0, 0) is (0.5, 0.5).
    """
    check_labels(labels, "image")
    parts = [_moments(*chunk) for chunk in _chunks(labels)]
    found = np.concatenate([p[0] for p in parts]) if parts else np.zeros(0, np.uint64)
    ids, place = np.unique(found, return_inverse=True)
    sums = np.zeros((len(ids), labels.ndim + 1))
    np.add.at(sums, place, np.concatenate([p[1] for p in parts]) if parts else 0.0)
    return ids, sums[:, :-1] / sums[:, -1:] + 0.5


def _chunks(labels: NDArray[Any]) -> Iterator[tuple[NDArray[Any], int]]:
    """Pieces along the first axis, with the index of their first plane."""
    if labels.size == 0:
        return
    rows = max(1, CHUNK // max(1, labels.size // len(labels)))
    for i in range(0, len(labels), rows):
        yield labels[i : i + rows], i


def _moments(labels: NDArray[Any], first: int) -> tuple[Ids, Points]:
    """Ids (N,) of a piece, and per id (N, n + 1): the sums of its indices, and its pixels.

    Taken over runs along the last axis: one of k px from index i sums up to k (i + (k - 1) / 2).
    """
    flat = labels.reshape(-1)
    change = np.ones(flat.size, np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=change[1:])
    change[:: labels.shape[-1]] = True  # no run crosses the end of a row
    start = np.flatnonzero(change)
    length = np.diff(start, append=flat.size)
    start, length = start[flat[start] != 0], length[flat[start] != 0]
    ids, place = np.unique(flat[start], return_inverse=True)
    index = [axis.astype(np.float64) for axis in np.unravel_index(start, labels.shape)]
    index[0] += first
    index[-1] += (length - 1) / 2
    columns = [np.bincount(place, weights=axis * length, minlength=len(ids)) for axis in index]
    columns.append(np.bincount(place, weights=length, minlength=len(ids)))
    return ids.astype(np.uint64), np.stack(columns, axis=1)


def _scaled(points: NDArray[Any], spacing: float | Sequence[float]) -> Points:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise SpaceError(f"points must be finite and of shape (N, n), got shape {points.shape}")
    scale = np.asarray(spacing, dtype=np.float64)
    if (scale.ndim and len(scale) != points.shape[1]) or not (scale > 0).all():
        raise SpaceError(
            f"spacing must be a positive number, or {points.shape[1]} of them, got {spacing}"
        )
    return np.asarray(points * scale)


def _within(a: Points, b: Points, radius: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of ``a`` and ``b`` closer than ``radius`` and a little, sorted by (a, b)."""
    none = np.zeros(0, np.intp)
    if len(a) == 0 or len(b) == 0:
        return none, none
    if a.shape[1] != b.shape[1]:
        raise SpaceError(f"points of {a.shape[1]} and of {b.shape[1]} dimensions do not pair")
    near = KDTree(a).sparse_distance_matrix(
        KDTree(b), radius * (1 + 1e-9), output_type="coo_matrix"
    )
    order = np.lexsort((near.col, near.row))
    return near.row[order].astype(np.intp), near.col[order].astype(np.intp)
