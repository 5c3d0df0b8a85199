"""Instance metrics of one image: Dice, AJI, AJI+, F1, AP, DQ, SQ, PQ.

Each metric is a ``Ratio``, a numerator over a denominator, so that images pool by adding both
(dataset-level TP, FP, FN) as well as by averaging values; see ``wsiseg.metrics.summary``.

A 5 x 5 example, used in the tests (a dot is background)::

    truth   1 1 . . .      prediction   1 1 . . .     A: |T1|=4 |P1|=4, common 4, IoU 1
            1 1 . . .                   1 1 . . .     B: |T2|=6 |P2|=4, common 4, IoU 4/6
            . . 2 2 2                   . . 2 2 .     C: |T3|=2, not found
            . . 2 2 2                   . . 2 2 .     D: |P3|=1, in the background
            3 3 . . .                   . . . . 3

    TP 2, FP 1, FN 1        DQ = 2 / (2 + 1/2 + 1/2) = 2/3      SQ = (1 + 2/3) / 2 = 5/6
    PQ = (5/3) / 3 = 5/9    AJI = AJI+ = (4 + 4) / (4 + 6 + 2 + 1) = 8/13   Dice = 16/21
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Literal

import numpy as np

from wsiseg.errors import InputFileError
from wsiseg.metrics.matching import TIE, Match, heaviest
from wsiseg.metrics.overlaps import Overlaps

__all__ = [
    "Empty",
    "Ratio",
    "aji",
    "aji_plus",
    "ap",
    "check_empty",
    "dice",
    "dice2",
    "dq",
    "f1",
    "pq",
    "precision",
    "recall",
    "sq",
]

Empty = Literal["nan", 0, 1]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric of one image, or of several added up.

    >>> (Ratio(1, 2) + Ratio(1, 1)).value()
    0.6666666666666666
    """

    numerator: float
    """What counts as right."""
    denominator: float
    """What it is measured against; 0 where the metric is undefined."""
    empty: bool = False
    """Whether neither side has an object."""

    def value(self, empty: Empty = "nan") -> float:
        """The metric, in [0, 1].

        An image without objects on either side has the value ``empty``: NaN (to be excluded and
        counted), 0 or 1. Where objects exist but the metric is 0 / 0 all the same (precision
        without predictions, recall without truth, SQ without a match, Dice2 without an overlap)
        it is NaN with "nan", else 0.
        """
        if self.denominator > 0:
            return self.numerator / self.denominator
        if empty == "nan":
            return nan
        return float(empty) if self.empty else 0.0

    def __float__(self) -> float:
        return self.value()

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(
            self.numerator + other.numerator,
            self.denominator + other.denominator,
            self.empty and other.empty,
        )


def check_empty(empty: object) -> Empty:
    """``empty`` as it is, where it is "nan", 0 or 1; raises InputFileError elsewhere."""
    if empty in ("nan", 0, 1) and not isinstance(empty, bool):
        return empty
    raise InputFileError(f'empty must be "nan", 0 or 1, got {empty!r}')


def dice(overlaps: Overlaps) -> Ratio:
    """Dice coefficient of the foreground, whatever the objects: 2 |T and P| / (|T| + |P|).

    Dice 1945, Ecology 26(3); "DICE 1" of the HoVer-Net code.
    """
    truth, pred, both = overlaps.foreground
    return Ratio(2 * both, truth + pred, overlaps.empty)


def dice2(overlaps: Overlaps) -> Ratio:
    """Ensemble Dice: 2 sum |T_i and P_j| / sum (|T_i| + |P_j|) over all pairs that overlap.

    Vu et al. 2019, Front. Bioeng. Biotechnol. 7:53, "DICE 2". Objects without any overlap do not
    count, and a sliver weighs its whole neighbour: kept for comparison, not recommended.
    """
    sizes = overlaps.truth_size[overlaps.truth] + overlaps.pred_size[overlaps.pred]
    return Ratio(2 * float(overlaps.size.sum()), float(sizes.sum()), overlaps.empty)


def aji(overlaps: Overlaps) -> Ratio:
    """Aggregated Jaccard index C / U, one-to-many.

    Kumar et al. 2017, IEEE TMI 36(7), Algorithm 1: each true object takes its best-IoU prediction,
    C sums the intersections and U the unions; then true objects without any overlap and predictions
    that nobody took join U. As in the original a prediction may be taken by several true objects:
    one prediction over two touching objects of its half size gives 1/2, where AJI+ gives 1/3.
    Ties in IoU go to the prediction of lower id.
    """
    iou, union = overlaps.iou, overlaps.union
    order = np.lexsort((overlaps.pred, -iou, overlaps.truth))
    found, first = np.unique(overlaps.truth[order], return_index=True)
    best = order[first]
    missed = np.delete(overlaps.truth_size, found)
    unused = np.delete(overlaps.pred_size, np.unique(overlaps.pred[best]))
    common = float(overlaps.size[best].sum())
    total = float(union[best].sum() + missed.sum() + unused.sum())
    return Ratio(common, total, overlaps.empty)


def aji_plus(overlaps: Overlaps) -> Ratio:
    """AJI+: the aggregated Jaccard index with each prediction paired at most once.

    Graham et al. 2019, "HoVer-Net", Medical Image Analysis 58 (its code: ``get_fast_aji_plus``):
    the pairing with the greatest sum of IoU; all without a pair joins the union, so that
    U = sum |T| + sum |P| - C. Pairings whose sums tie (within 1e-9) are told apart by the greatest
    C, which makes the value unique.
    """
    tie = overlaps.size / max(1.0, float(overlaps.size.max(initial=0.0)))
    pairs = heaviest(overlaps.truth, overlaps.pred, overlaps.iou + TIE * tie)
    common = float(overlaps.size[pairs].sum())
    total = float(overlaps.truth_size.sum() + overlaps.pred_size.sum()) - common
    return Ratio(common, total, overlaps.empty)


def precision(match: Match) -> Ratio:
    """TP / (TP + FP)."""
    return Ratio(match.tp, match.n_pred, match.empty)


def recall(match: Match) -> Ratio:
    """TP / (TP + FN)."""
    return Ratio(match.tp, match.n_truth, match.empty)


def f1(match: Match) -> Ratio:
    """TP / (TP + FP/2 + FN/2), the harmonic mean of precision and recall."""
    return Ratio(match.tp, (match.n_truth + match.n_pred) / 2, match.empty)


def ap(match: Match) -> Ratio:
    """TP / (TP + FP + FN): "average precision" of the 2018 Data Science Bowl and StarDist.

    Caicedo et al. 2019, Nature Methods 16; not the area under a precision-recall curve.
    """
    return Ratio(match.tp, match.n_truth + match.n_pred - match.tp, match.empty)


def dq(match: Match) -> Ratio:
    """Detection quality, the F1 of the match (Kirillov et al. 2019, eq. 2: RQ)."""
    return f1(match)


def sq(match: Match) -> Ratio:
    """Segmentation quality, the mean IoU of matched pairs (Kirillov et al. 2019, eq. 2).

    0 / 0 where nothing matched: there is no pair whose quality could be told.
    """
    return Ratio(float(match.score.sum()), match.tp, match.empty)


def pq(match: Match) -> Ratio:
    """Panoptic quality: sum of IoU / (TP + FP/2 + FN/2) (Kirillov et al. 2019, eq. 1).

    Equals DQ x SQ, and is 0 where nothing matched. Graham et al. 2019
    brought it to nuclei.
    """
    return Ratio(float(match.score.sum()), (match.n_truth + match.n_pred) / 2, match.empty)
