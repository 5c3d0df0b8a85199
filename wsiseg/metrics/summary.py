"""Scores of one image, and of many: always pooled and as a mean, with the number left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

from wsiseg.errors import InputFileError
from wsiseg.metrics import instances
from wsiseg.metrics.instances import Empty, Ratio, check_empty
from wsiseg.metrics.matching import Match, MatchOp, match_overlaps
from wsiseg.metrics.overlaps import Overlaps

__all__ = [
    "MATCH_METRICS",
    "METRICS",
    "OVERLAP_METRICS",
    "Aggregate",
    "Rules",
    "Scores",
    "aggregate",
    "aggregate_classes",
    "aggregate_scores",
    "point_scores",
    "scores",
]

OVERLAP_METRICS: dict[str, Callable[[Overlaps], Ratio]] = {
    "dice": instances.dice,
    "dice2": instances.dice2,
    "aji": instances.aji,
    "aji_plus": instances.aji_plus,
}
"""Metrics of the table of overlaps; no threshold."""

MATCH_METRICS: dict[str, Callable[[Match], Ratio]] = {
    "precision": instances.precision,
    "recall": instances.recall,
    "f1": instances.f1,
    "ap": instances.ap,
    "dq": instances.dq,
    "sq": instances.sq,
    "pq": instances.pq,
}
"""Metrics of a match at one IoU threshold."""

METRICS: dict[str, Callable[[Overlaps], Ratio] | Callable[[Match], Ratio]] = {
    **OVERLAP_METRICS,
    **MATCH_METRICS,
}
"""All instance metrics by name."""

Scores = dict[str, Ratio]
"""Name of a metric, "@" and its IoU threshold or "detection" where it has one -> ratio."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What papers leave unsaid; every field is part of the result."""

    iou: tuple[float, ...] = (0.5,)
    """IoU thresholds of a match; PQ is usually reported at 0.5."""
    match_op: MatchOp = ">"
    """Whether an IoU equal to the threshold matches (">=") or not (">", Kirillov et al. 2019)."""
    empty: Empty = "nan"
    """Value of an image without objects on either side; NaN is excluded and counted."""
    radius: float = 12.0
    """Reach of the centroid match, in px, or in µm where ``mpp`` is given."""
    mpp: float | None = None
    """µm per px of the compared frame, which turns ``radius`` into µm; None: px."""

    def __post_init__(self) -> None:
        check_empty(self.empty)
        if not self.iou or len({f"{t:g}" for t in self.iou}) < len(self.iou):
            raise InputFileError(f"IoU thresholds must be one or several, each once: {self.iou}")
        if not self.radius > 0 or not (self.mpp is None or self.mpp > 0):
            raise InputFileError(
                f"radius and mpp must be > 0, got radius {self.radius} and mpp {self.mpp}"
            )


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One metric over several images (or classes)."""

    pooled: float
    """Of all images as if they were one: numerators and denominators added."""
    mean: float
    """Mean of the values of the images."""
    n: int
    """Number of images in the mean."""
    n_excluded: int
    """Number of images left out of the mean, because the metric is NaN there."""


def scores(overlaps: Overlaps, rules: Rules | None = None) -> Scores:
    """All metrics of one image: "aji", "pq@0.5" and so on, per threshold of ``rules``."""
    rules = rules or Rules()
    found = {name: metric(overlaps) for name, metric in OVERLAP_METRICS.items()}
    for threshold in rules.iou:
        match = match_overlaps(overlaps, threshold=threshold, match_op=rules.match_op)
        for name, metric in MATCH_METRICS.items():
            found[f"{name}@{threshold:g}"] = metric(match)
    return found


def point_scores(match: Match) -> Scores:
    """Precision, recall and F1 of a match of centroids ("F_d"), as "f1@detection" and so on."""
    names = ("precision", "recall", "f1")
    return {f"{name}@detection": MATCH_METRICS[name](match) for name in names}


def aggregate(images: Iterable[Ratio], empty: Empty = "nan") -> Aggregate:
    """Pooled value and mean of one metric over images.

    >>> aggregate([Ratio(1, 2), Ratio(1, 1), Ratio(0, 0, True)])
    Aggregate(pooled=0.6666666666666666, mean=0.75, n=2, n_excluded=1)
    """
    ratios = list(images)
    values = [ratio.value(empty) for ratio in ratios]
    pooled = sum(ratios, start=Ratio(0.0, 0.0, True)).value(empty)
    return _aggregate(pooled, values)


def aggregate_scores(images: Sequence[Scores], empty: Empty = "nan") -> dict[str, Aggregate]:
    """Every metric over images; "bpq" is PQ with all classes as one, under its usual name."""
    names = dict.fromkeys(name for image in images for name in image)
    found = {name: aggregate((i[name] for i in images if name in i), empty=empty) for name in names}
    first = next((name for name in found if name.startswith("pq@")), None)
    return {**found, "bpq": found[first]} if first else found


def aggregate_classes(images: Sequence[Mapping[str, Ratio]], empty: Empty = "nan") -> Aggregate:
    """A metric per class, over classes and images: with PQ, mPQ (``mean``) and mPQ+ (``pooled``).

    ``images`` hold class -> ratio each. mPQ is the mean over images of the mean over the classes
    of an image (Gamper et al. 2020, PanNuke, arXiv:2003.10778); mPQ+ pools each class over images,
    then takes the mean over classes (Graham et al. 2021, CoNIC, arXiv:2111.14485). By the rule of
    this package a class is left out of an image where neither side has it; the PanNuke code leaves
    it out where the truth has none, and so overlooks false positives there.
    """
    check_empty(empty)
    classes = dict.fromkeys(name for image in images for name in image)
    none = Ratio(0.0, 0.0, True)
    per_image = [_mean([i.get(c, none).value(empty) for c in classes]) for i in images]
    per_class = [sum((i.get(c, none) for i in images), start=none).value(empty) for c in classes]
    return _aggregate(_mean(per_class), per_image)


def _aggregate(pooled: float, values: Sequence[float]) -> Aggregate:
    kept = sum(not isnan(v) for v in values)
    return Aggregate(pooled, _mean(values), kept, len(values) - kept)


def _mean(values: Sequence[float]) -> float:
    kept = [v for v in values if not isnan(v)]
    return sum(kept) / len(kept) if kept else nan
