"""How well a segmentation agrees with the truth: definitions, ties and empties all stated.

>>> import numpy as np
>>> truth = np.array([[1, 1, 0, 2]])
>>> pred = np.array([[7, 7, 0, 0]])
>>> float(pq(match(truth, pred))), float(aji(count_overlaps(truth, pred)))
(0.6666666666666666, 0.6666666666666666)
"""

from wsiseg.metrics.bootstrap import Estimate, Resamples, mean_of, ratio_of
from wsiseg.metrics.detection import (
    centroids,
    match_points,
    type_counts,
    type_f1,
    weighted_type_f1,
)
from wsiseg.metrics.error_types import ERROR_TYPES, Errors, find_errors
from wsiseg.metrics.instances import (
    Empty,
    Ratio,
    aji,
    aji_plus,
    ap,
    dice,
    dice2,
    dq,
    f1,
    pq,
    precision,
    recall,
    sq,
)
from wsiseg.metrics.matching import Match, MatchOp, match, match_overlaps
from wsiseg.metrics.overlaps import Overlaps, count_overlaps
from wsiseg.metrics.polygons import grid_overlaps, polygon_overlaps
from wsiseg.metrics.summary import (
    MATCH_METRICS,
    METRICS,
    OVERLAP_METRICS,
    Aggregate,
    Rules,
    aggregate,
    aggregate_classes,
    aggregate_scores,
    point_scores,
    scores,
)

__all__ = [
    "ERROR_TYPES",
    "MATCH_METRICS",
    "METRICS",
    "OVERLAP_METRICS",
    "Aggregate",
    "Empty",
    "Errors",
    "Estimate",
    "Match",
    "MatchOp",
    "Overlaps",
    "Ratio",
    "Resamples",
    "Rules",
    "aggregate",
    "aggregate_classes",
    "aggregate_scores",
    "aji",
    "aji_plus",
    "ap",
    "centroids",
    "count_overlaps",
    "dice",
    "dice2",
    "dq",
    "f1",
    "find_errors",
    "grid_overlaps",
    "match",
    "match_overlaps",
    "match_points",
    "mean_of",
    "point_scores",
    "polygon_overlaps",
    "pq",
    "precision",
    "ratio_of",
    "recall",
    "scores",
    "sq",
    "type_counts",
    "type_f1",
    "weighted_type_f1",
]
