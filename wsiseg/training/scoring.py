"""Scores of a set of images by a model: what a training chooses by, and shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.model.base import Maps
from wsiseg.model.unet import UNetModel
from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.validate import Found, Scores, predict, score, summary

__all__ = ["Judged", "judge", "known_part", "mean_of", "summary_of", "within_known"]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One image, what was found on it, and how that compares."""

    item: Labelled
    found: Found
    maps: Maps
    """On the lattice of the model."""
    lattice: NDArray[np.int32]
    """(h, w): labels of what was found, there."""
    scores: Scores


def judge(
    model: UNetModel, items: Sequence[Labelled], check: Callable[[], None] = lambda: None
) -> Iterator[Judged]:
    """Each image with its objects and scores; ``check`` is called before each, and may raise.

    Nuclei and objects most of which lie where nothing was annotated do not count.
    """
    for whole in items:
        check()
        item = known_part(whole)
        found, maps, lattice = predict(model, item)
        yield Judged(item, found, maps, lattice, score(within_known(found, item), item))


def known_part(item: Labelled) -> Labelled:
    """``item`` without the nuclei most of which, or whose centre, lies where nothing is known."""
    if item.known is None:
        return item
    if item.centres is not None:
        last = np.array(item.known.shape) - 1
        at = np.clip(item.centres.points.round().astype(np.intp), 0, last)
        mine = item.known[at[:, 0], at[:, 1]]
        return replace(item, centres=Centres(item.centres.points[mine], item.centres.kinds[mine]))
    assert item.labels is not None
    keep = _mostly(item.labels, item.known)
    labels = np.where(keep[item.labels], item.labels, 0).astype(np.int32)
    # what is left of a nucleus is no background
    return replace(item, labels=labels, known=item.known & ((item.labels == 0) | (labels > 0)))


def within_known(found: Found, item: Labelled) -> Found:
    """``found`` without the objects most of which lies where nothing was annotated."""
    if item.known is None:
        return found
    keep = _mostly(found.labels, item.known)
    number = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    kept = np.flatnonzero(keep) - 1
    return Found(number[found.labels], found.centroids[kept], found.classes[kept])


def _mostly(labels: NDArray[np.int32], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(max label + 1,): whether half of an object, or more, is known; False for 0."""
    size = np.bincount(labels.ravel())
    keep = 2 * np.bincount(labels[known], minlength=len(size)) >= size
    keep[0] = False
    return np.asarray(keep)


def summary_of(rows: Sequence[tuple[str, Scores]]) -> dict[str, dict[str, float | None]]:
    """Means by set and metric, ready for JSON: None where a metric is not defined."""
    found = summary([(name, scores) for name, scores in rows if not _all_nan(scores)])
    return {
        name: {k: None if math.isnan(v) else v for k, v in scores.items()}
        for name, scores in found.items()
    }


def mean_of(sets: dict[str, dict[str, float | None]], chosen: Sequence[str]) -> float | None:
    """The mean over sets that a training chooses by: of PQ; of F1 where no set has outlines."""
    mine = [scores for name, scores in sets.items() if not chosen or name in chosen]
    for metric in ("pq", "f1"):
        values = [v for scores in mine if (v := scores.get(metric)) is not None]
        if values:
            return float(np.mean(values))
    return None


def _all_nan(scores: Scores) -> bool:
    """An image without nuclei where none were found says nothing."""
    return all(math.isnan(value) for value in scores.values())
