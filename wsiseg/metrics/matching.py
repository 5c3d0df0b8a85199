"""Matching: which prediction stands for which true object, each at most once.

The solver is sparse: pairs that no better pair can displace are fixed at once, what remains falls
into small independent groups, and each of those is an assignment problem of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from wsiseg.errors import InputFileError
from wsiseg.metrics.overlaps import Overlaps, count_overlaps

__all__ = ["TIE", "Match", "MatchOp", "heaviest", "match", "match_overlaps", "most"]

MatchOp = Literal[">", ">="]
Indices = NDArray[np.intp]
Floats = NDArray[np.float64]

TIE = 1e-9
"""Weight of the second criterion against the first: sums closer than this are equal."""
_ROUNDS = 64  # of fixing dominant pairs; a longer chain of them is left to the solver
_DENSE = 1 << 20  # entries of a dense assignment matrix, 8 MB; larger groups are solved sparsely


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """M pairs of true and predicted objects, each object in one pair at most."""

    truth: Indices
    """(M,) place of the true object (in ``Overlaps.truth_id``, or in the array of points)."""
    pred: Indices
    """(M,) place of the predicted object."""
    score: Floats
    """(M,) IoU of each pair, or its distance where points were matched."""
    n_truth: int
    """Number of true objects."""
    n_pred: int
    """Number of predicted objects."""

    @property
    def tp(self) -> int:
        """True positives: pairs."""
        return len(self.truth)

    @property
    def fp(self) -> int:
        """False positives: predictions without a pair."""
        return self.n_pred - self.tp

    @property
    def fn(self) -> int:
        """False negatives: true objects without a pair."""
        return self.n_truth - self.tp

    @property
    def empty(self) -> bool:
        """Whether there is no object on either side."""
        return self.n_truth == 0 and self.n_pred == 0


def match(
    truth: NDArray[Any],
    pred: NDArray[Any],
    *,
    threshold: float = 0.5,
    match_op: MatchOp = ">",
) -> Match:
    """Match the objects of two label images (any integer dtype and ids, n-D) by IoU.

    See ``match_overlaps`` for the rule and ``count_overlaps`` for the errors.
    """
    return match_overlaps(count_overlaps(truth, pred), threshold=threshold, match_op=match_op)


def match_overlaps(overlaps: Overlaps, *, threshold: float = 0.5, match_op: MatchOp = ">") -> Match:
    """Match objects whose IoU is above ``threshold`` (``match_op=">="``: at or above).

    Above 0.5 every such pair is unique (Kirillov et al. 2019, "Panoptic Segmentation", CVPR,
    section 4.1). Elsewhere (lower thresholds, ties at 0.5, polygons that overlap) this is a
    matching with, in this order: the most pairs, the greatest sum of IoU, the greatest sum of
    intersections (sums are equal within 1e-9). TP and the sum of IoU are thereby fixed; where two
    matchings still tie, objects of lower id are served first.

    Raises InputFileError where the threshold is outside [0, 1) (1 is allowed with ">=").
    """
    _check_threshold(threshold, match_op)
    iou = overlaps.iou
    keep = np.flatnonzero(iou >= threshold if match_op == ">=" else iou > threshold)
    rows, cols = overlaps.truth[keep], overlaps.pred[keep]
    tie = overlaps.size[keep] / max(1.0, float(overlaps.size.max(initial=0.0)))
    chosen = keep[most(rows, cols, iou[keep] + TIE * tie)]
    return Match(
        overlaps.truth[chosen],
        overlaps.pred[chosen],
        iou[chosen],
        len(overlaps.truth_id),
        len(overlaps.pred_id),
    )


def most(rows: Indices, cols: Indices, gain: Floats) -> Indices:
    """Edges (ascending) of a matching with the most edges, and among those the greatest gain.

    Edge k joins ``rows[k]`` and ``cols[k]`` and has ``gain[k]`` in (0, 2).
    """
    group = _groups(rows, cols)
    n_edges = np.bincount(group)  # bounds the pairs of a group
    # one more pair must outweigh whatever gain its group can lose by it
    return heaviest(rows, cols, gain + 2.0 * n_edges[group] if len(group) else gain)


def heaviest(rows: Indices, cols: Indices, weight: Floats) -> Indices:
    """Edges (ascending) of a matching with the greatest sum of ``weight`` (> 0).

    Where edges tie, those first in the given order are taken first.
    """
    alive = np.arange(len(rows))
    fixed: list[Indices] = []
    for _ in range(_ROUNDS):
        winners = alive[_dominant(rows[alive], cols[alive], weight[alive])]
        if len(winners) == 0:
            break
        fixed.append(winners)
        taken = np.isin(rows[alive], rows[winners]) | np.isin(cols[alive], cols[winners])
        alive = alive[~taken]
    for edges in _split(_groups(rows[alive], cols[alive])):
        at = alive[edges]
        fixed.append(at[_solve(rows[at], cols[at], weight[at])])
    return np.sort(np.concatenate(fixed)) if fixed else np.zeros(0, np.intp)


def _check_threshold(threshold: float, match_op: str) -> None:
    if match_op not in (">", ">="):
        raise InputFileError(f'match_op must be ">" or ">=", got {match_op!r}')
    if not (0 <= threshold < 1 or (threshold == 1 and match_op == ">=")):
        raise InputFileError(
            f"an IoU threshold must be in [0, 1) (or 1 with match_op '>='), got {threshold}"
        )


def _dominant(rows: Indices, cols: Indices, weight: Floats) -> Indices:
    """Edges that weigh at least as much as the best rivals at both of their ends together.

    Some heaviest matching holds such an edge: put it in, and the at most two edges that must leave
    weigh no more. Of dominant edges that share an end (they tie) the first stays.
    """
    bound = _rival(rows, weight) + _rival(cols, weight)
    edges = np.flatnonzero(weight >= bound)
    edges = edges[np.sort(np.unique(rows[edges], return_index=True)[1])]
    return edges[np.sort(np.unique(cols[edges], return_index=True)[1])]


def _rival(group: Indices, weight: Floats) -> Floats:
    """Greatest weight among the other edges of each edge's group; 0 where there is none."""
    if len(group) == 0:
        return weight
    order = np.lexsort((-weight, group))
    g, w = group[order], weight[order]
    first = np.concatenate([[True], g[1:] != g[:-1]])
    start = np.flatnonzero(first)
    rival = w[start[np.cumsum(first) - 1]]
    second = np.append(np.where(first[1:], 0.0, w[1:]), 0.0)
    out = np.empty_like(weight)
    out[order] = np.where(first, second, rival)
    return out


def _groups(rows: Indices, cols: Indices) -> Indices:
    """Number of the connected group that each edge belongs to."""
    if len(rows) == 0:
        return np.zeros(0, np.intp)
    r = np.unique(rows, return_inverse=True)[1]
    c = np.unique(cols, return_inverse=True)[1] + r.max() + 1
    n = int(c.max()) + 1
    graph = coo_array((np.ones(len(r), np.int8), (r, c)), shape=(n, n)).tocsr()
    return np.asarray(connected_components(graph, directed=False)[1][r], dtype=np.intp)


def _split(group: Indices) -> list[Indices]:
    """Edges of each group, ascending."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(group) else []


def _solve(rows: Indices, cols: Indices, weight: Floats) -> Indices:
    """Edges of the heaviest matching of one connected group."""
    row_ids, r = np.unique(rows, return_inverse=True)
    col_ids, c = np.unique(cols, return_inverse=True)
    if len(row_ids) * len(col_ids) <= _DENSE:
        return _solve_dense(r, c, weight)
    return _solve_sparse(r, c, weight)


def _solve_dense(r: Indices, c: Indices, weight: Floats) -> Indices:
    table = np.zeros((r.max() + 1, c.max() + 1))
    edge = np.full(table.shape, -1, np.intp)
    table[r, c], edge[r, c] = weight, np.arange(len(r))
    chosen = edge[linear_sum_assignment(table, maximize=True)]
    return np.asarray(chosen[chosen >= 0], dtype=np.intp)


def _solve_sparse(r: Indices, c: Indices, weight: Floats) -> Indices:
    """LAPJVsp (scipy) wants every row matched: each gets a column of its own, of weight 0."""
    n, m = int(r.max()) + 1, int(c.max()) + 1
    own = np.arange(n)
    top = float(weight.max()) + 1.0  # costs must not be 0, which would mean no edge
    cost = np.concatenate([top - weight, np.full(n, top)])
    where = (np.concatenate([r, own]), np.concatenate([c, m + own]))
    graph = coo_array((cost, where), shape=(n, m + n)).tocsr()
    got_r, got_c = min_weight_full_bipartite_matching(graph)
    real = got_c < m
    key = r.astype(np.int64) * m + c
    order = np.argsort(key)
    found = np.searchsorted(key[order], got_r[real].astype(np.int64) * m + got_c[real])
    return np.asarray(order[found], dtype=np.intp)
