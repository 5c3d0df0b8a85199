"""Types of segmentation error: what a prediction did wrong, object by object.

A worked example (a dot is background), used in the tests::

    truth        1 1 2 2 . 3 3 3 3 . 4 4 . . 5 5 5 5     prediction
                                                         1 1 1 1 . 2 2 3 3 . . . 4 4 5 5 . .

    T1 + T2   merged by P1           T3   split into P2 and P3
    T4        missed                 P4   false
    T5, P5    boundary: IoU 1/2, and nothing else explains it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.metrics.matching import heaviest, match_overlaps
from wsiseg.metrics.overlaps import Overlaps

__all__ = ["ERROR_TYPES", "LEAST_IOU", "SOUND_IOU", "Errors", "find_errors"]

Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

ERROR_TYPES = ("missed", "false", "merged", "split", "boundary")
"""Names of the types, as they are counted and shown."""

HALF = 0.5
"""Part of an object that must lie in another one to be taken for a part of it."""
SOUND_IOU = 0.7
"""From this IoU on a pair is sound; below, its boundary is wrong."""
LEAST_IOU = 0.1
"""Below this IoU two objects do not stand for each other (the background threshold of TIDE,
Bolya et al. 2020, ECCV): neighbours that touch are a missed and a false one, not a bad boundary."""


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Every object of a table of overlaps, by what became of it.

    Each true object is in exactly one of: ``missed``, the pairs of ``boundary``, the pairs of
    ``sound``, the pairs of ``merged`` and ``split`` together; each predicted one likewise, with
    ``false`` for ``missed``. Exchanging truth and prediction exchanges ``missed`` with ``false``
    and ``merged`` with ``split``. The types explain what a reader sees; they are no part of PQ: a
    prediction that merges a large with a small object may still match the large one.
    """

    overlaps: Overlaps
    """The table that places below refer to."""
    missed: Indices
    """Places (in ``truth_id``) of true objects that nothing stands for."""
    false: Indices
    """Places (in ``pred_id``) of predictions that stand for nothing."""
    merged: Indices
    """Pairs (places in ``overlaps.size``) in which a prediction covers at least half of a true
    object, of those predictions that do so with two or more."""
    split: Indices
    """Pairs in which at least half of a prediction lies in a true object, of those true objects
    that hold two or more such predictions."""
    boundary: Indices
    """Pairs of one true object and one prediction, outside of merges and splits, with an IoU of
    at least ``LEAST_IOU`` and below ``SOUND_IOU``: matched loosely (IoU > 0.5) or not at all."""
    sound: Indices
    """The other pairs that match."""

    def counts(self) -> dict[str, int]:
        """Number of errors of each of ``ERROR_TYPES``.

        A merge is counted once for its prediction, a split once for its true object.
        """
        return {
            "missed": len(self.missed),
            "false": len(self.false),
            "merged": len(np.unique(self.overlaps.pred[self.merged])),
            "split": len(np.unique(self.overlaps.truth[self.split])),
            "boundary": len(self.boundary),
        }


def find_errors(overlaps: Overlaps) -> Errors:
    """Sort the objects of ``overlaps`` into the types of error; see ``Errors``.

    Merges and splits go first, by coverage alone. Of what is left, pairs with an IoU above 0.5
    are taken, then the pairing of the rest with the greatest sum of IoU.
    """
    covered = overlaps.size >= HALF * overlaps.truth_size[overlaps.truth]
    inside = overlaps.size >= HALF * overlaps.pred_size[overlaps.pred]
    merged = _repeated(overlaps.pred, covered, len(overlaps.pred_id))
    split = _repeated(overlaps.truth, inside, len(overlaps.truth_id))
    grouped = np.concatenate([merged, split])
    taken = _marked(overlaps.truth[grouped], len(overlaps.truth_id))
    used = _marked(overlaps.pred[grouped], len(overlaps.pred_id))
    pairs = _pairs(overlaps, taken, used)
    taken[overlaps.truth[pairs]] = used[overlaps.pred[pairs]] = True
    sound = overlaps.iou[pairs] >= SOUND_IOU
    left = np.flatnonzero(~taken), np.flatnonzero(~used)
    return Errors(overlaps, *left, merged, split, pairs[~sound], pairs[sound])


def _repeated(place: Indices, chosen: Mask, count: int) -> Indices:
    """Chosen pairs of those objects that are in two or more of them."""
    often = np.bincount(place[chosen], minlength=count) >= 2
    return np.flatnonzero(chosen & often[place])


def _marked(places: Indices, count: int) -> Mask:
    mask = np.zeros(count, np.bool_)
    mask[places] = True
    return mask


def _pairs(overlaps: Overlaps, taken: Mask, used: Mask) -> Indices:
    """Pairs of free objects, each object once: matches first, then the best of the rest."""
    match = match_overlaps(overlaps)
    partner = np.full(len(overlaps.truth_id), -1)
    partner[match.truth] = match.pred
    free = ~taken[overlaps.truth] & ~used[overlaps.pred]
    first = np.flatnonzero(free & (partner[overlaps.truth] == overlaps.pred))
    taken, used = taken.copy(), used.copy()
    taken[overlaps.truth[first]] = used[overlaps.pred[first]] = True
    free = ~taken[overlaps.truth] & ~used[overlaps.pred] & (overlaps.iou >= LEAST_IOU)
    rest = np.flatnonzero(free)
    second = heaviest(overlaps.truth[rest], overlaps.pred[rest], overlaps.iou[rest])
    return np.sort(np.concatenate([first, rest[second]]))
