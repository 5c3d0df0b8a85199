"""Scores of a set of images by a model: what a training chooses by, and shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wsiseg.model.base import Maps
from wsiseg.model.unet import UNetModel
from wsiseg.training.labelled import Labelled
from wsiseg.training.validate import Found, Scores, predict, score, summary

__all__ = ["Judged", "judge", "mean_of", "summary_of", "within_known"]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One image, what was found on it, and how that compares."""

    item: Labelled
    found: Found
    maps: Maps
    """On the lattice of the model."""
    scores: Scores


def judge(
    model: UNetModel, items: Sequence[Labelled], check: Callable[[], None] = lambda: None
) -> Iterator[Judged]:
    """Each image with its objects and scores; ``check`` is called before each, and may raise."""
    for item in items:
        check()
        found, maps = predict(model, item)
        yield Judged(item, found, maps, score(within_known(found, item), item))


def within_known(found: Found, item: Labelled) -> Found:
    """``found`` without the objects most of which lies where nothing was annotated."""
    if item.known is None:
        return found
    flat, n = found.labels.ravel(), len(found.centroids)
    size = np.bincount(flat, minlength=n + 1)
    inside = np.bincount(flat, weights=item.known.ravel(), minlength=n + 1)
    keep = inside * 2 >= size
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    kept = np.flatnonzero(keep) - 1
    return Found(number[found.labels], found.centroids[kept], found.classes[kept])


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
