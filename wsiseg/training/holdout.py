"""Holding annotations back: which of few are not trained on, so that a score means something.

Whole crops where there are several; else each crop is cut in two, and a nucleus on the line
belongs to the side of its centroid, so that no pixel of it is on the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.metrics import centroids
from wsiseg.training.labelled import Labelled

__all__ = ["LEAST", "count", "hold_out"]

LEAST = 10
"""Nuclei below which nothing can be learnt and judged."""

_SEVERAL = 4  # crops, from which whole ones are held out
_AROUND = 48  # px beside a half that is judged: what the network sees of its surroundings


def hold_out(items: Sequence[Labelled], share: float) -> tuple[list[Labelled], list[Labelled]]:
    """Items to train on and to judge by, about ``share`` of the nuclei among the latter.

    The same items give the same halves. Raises InputFileError where there are fewer than 10
    nuclei, or no line parts them.
    """
    total = sum(count(item) for item in items)
    if total < LEAST:
        raise InputFileError(
            f"{items[0].name if items else 'the annotations'}: {total} nuclei are too few to learn "
            f"from and to judge by: annotate {LEAST} at least, better 50 to 200"
        )
    filled = [item for item in items if count(item)]
    train, val = _by_crop(filled, share) if len(filled) >= _SEVERAL else _by_line(filled, share)
    if not train or not val:
        raise InputFileError(
            f"{items[0].name}: its {total} nuclei cannot be parted into some to learn from and "
            "some to judge by: annotate a second place"
        )
    return train, [replace(item, split="val") for item in val]


def count(item: Labelled) -> int:
    """Nuclei of an image with outlines."""
    assert item.labels is not None
    return int(np.count_nonzero(np.bincount(item.labels.ravel())[1:]))


def _by_crop(items: Sequence[Labelled], share: float) -> tuple[list[Labelled], list[Labelled]]:
    """Crops in the order of a hash, held out while that brings the share nearer."""
    order = sorted(items, key=lambda i: hashlib.sha256(i.image.tobytes()).digest())
    wanted = share * sum(map(count, items))
    val: list[Labelled] = []
    held = 0
    for item in order[:-1]:
        if not val or abs(held + count(item) - wanted) < abs(held - wanted):
            val.append(item)
            held += count(item)
    chosen = {id(item) for item in val}
    return [item for item in items if id(item) not in chosen], val


def _by_line(items: Sequence[Labelled], share: float) -> tuple[list[Labelled], list[Labelled]]:
    halves = [_cut(item, share) for item in items]
    train = [first for first, _ in halves if count(first)]
    return train, [second for _, second in halves if second is not None and count(second)]


def _cut(item: Labelled, share: float) -> tuple[Labelled, Labelled | None]:
    """``item`` with what lies beyond a line unknown, and what lies beyond; None: too few."""
    assert item.labels is not None
    ids, points = centroids(item.labels)
    points = points - 0.5  # pixel centres at whole numbers
    held = round(share * len(ids))
    if held < 1:
        return item, None
    axis = int(np.argmax(np.ptp(points, axis=0)))
    along = np.sort(points[:, axis])
    line = float((along[-held - 1] + along[-held]) / 2)
    beyond = np.arange(item.labels.shape[axis]) > line
    side = np.broadcast_to(beyond[:, None] if axis == 0 else beyond[None], item.labels.shape).copy()
    table = np.zeros(int(ids.max()) + 1, dtype=np.bool_)
    table[ids] = points[:, axis] > line
    inside = item.labels > 0
    side[inside] = table[item.labels[inside]]
    return _part(item, ~side), _cropped(_part(item, side), axis, int(np.flatnonzero(beyond)[0]))


def _part(item: Labelled, mine: NDArray[np.bool_]) -> Labelled:
    """``item`` of which only the pixels ``mine`` are known."""
    assert item.labels is not None
    known = mine if item.known is None else mine & item.known
    return replace(item, labels=np.where(mine, item.labels, 0).astype(np.int32), known=known)


def _cropped(item: Labelled, axis: int, start: int) -> Labelled:
    """What lies from ``start`` on along an axis, with some surroundings."""
    assert item.labels is not None
    assert item.known is not None
    first = max(0, start - _AROUND)
    window = (slice(first, None), slice(None)) if axis == 0 else (slice(None), slice(first, None))
    return replace(
        item,
        image=np.ascontiguousarray(item.image[window]),
        labels=np.ascontiguousarray(item.labels[window]),
        known=np.ascontiguousarray(item.known[window]),
    )
