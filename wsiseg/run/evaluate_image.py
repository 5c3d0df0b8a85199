"""One image of an evaluation: its scores, and the errors worth looking at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsiseg.errors import InputFileError
from wsiseg.image.open import open_slide
from wsiseg.metrics import (
    Match,
    Overlaps,
    Ratio,
    Rules,
    find_errors,
    match_overlaps,
    match_points,
    point_scores,
    pq,
    scores,
    type_counts,
)
from wsiseg.metrics.summary import Scores
from wsiseg.run.error_cases import (
    DISC_UM,
    ErrorCase,
    discs,
    farthest_missed,
    places_of,
    rows_of,
    worst_alone,
    worst_errors,
)
from wsiseg.run.evaluate_cases import Case, Truth
from wsiseg.run.evaluate_compare import Objects, centres_of, compare_objects
from wsiseg.run.inputs import Polygons

__all__ = ["Judged", "judge"]

Names = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What an evaluation knows of one image."""

    case: Case
    """Which."""
    truth: int
    """Number of true objects."""
    pred: int
    """Number of predicted objects."""
    scores: Scores
    """Metrics of overlaps ("dice", "pq@0.5"; not of centres) and of "@detection"."""
    class_pq: dict[str, Ratio] = field(default_factory=dict)
    """PQ by class at the first IoU threshold; {} where a side has no classes or no outlines."""
    class_counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Class -> ``type_counts`` (5,); {} where a side has no classes."""
    errors: dict[str, int] = field(default_factory=dict)
    """Errors by type."""
    worst: tuple[ErrorCase, ...] = ()
    """At most ``KEPT`` of each type."""


def judge(
    case: Case, truth: Truth, pred: tuple[Objects, dict[int, str]], names: Path, rules: Rules
) -> Judged:
    """Compare a prediction (objects, and classes by id where they are labels) with the truth.

    ``names`` is the file of the prediction, for messages. ``rules.radius`` is in µm, and the pixel
    size of the case must be known. Raises InputFileError where labels and image differ in size.
    """
    assert case.mpp is not None
    objects, classes = pred
    if truth.objects is None:
        return _judge_centres(case, truth, objects, classes, rules)
    _check_size(case, truth.objects)
    both = compare_objects(truth.objects, objects, (case.truth, names))
    points = match_points(both.truth_points, both.pred_points, rules.radius, spacing=case.mpp)
    sides = (
        _names(truth.objects, truth.classes, both.truth_of),
        _names(objects, classes, both.pred_of),
    )
    errors = find_errors(both.overlaps)
    where = places_of(truth.objects, both.truth_of), places_of(objects, both.pred_of)
    return Judged(
        case,
        len(both.overlaps.truth_id),
        len(both.overlaps.pred_id),
        scores(both.overlaps, rules) | point_scores(points),
        _class_pq(both.overlaps, sides, rules),
        _class_counts(points, sides),
        errors.counts(),
        tuple(worst_errors(errors, where)),
    )


def _check_size(case: Case, objects: Objects) -> None:
    if isinstance(objects, Polygons):
        return
    with open_slide(case.image) as slide:
        shape = slide.space.shape
    if objects.shape != shape:
        raise InputFileError(
            f"{case.truth} is {objects.shape[0]} x {objects.shape[1]} px, but its image "
            f"{case.image} is {shape[0]} x {shape[1]} px: they must be of one size"
        )


def _judge_centres(
    case: Case, truth: Truth, objects: Objects, classes: Mapping[int, str], rules: Rules
) -> Judged:
    points = centres_of(objects)
    match = match_points(truth.centres, points, rules.radius, spacing=case.mpp or 1.0)
    rows = rows_of(objects)
    known = np.array([*truth.classes, None], dtype=object)[:-1]
    missed = np.delete(np.arange(match.n_truth), match.truth)
    false = np.delete(np.arange(match.n_pred), match.pred)
    mpp = case.mpp or 1.0
    where = discs(truth.centres, DISC_UM / mpp), places_of(objects, rows)
    away = _nearest(truth.centres, points) * mpp
    return Judged(
        case,
        match.n_truth,
        match.n_pred,
        point_scores(match),
        {},
        _class_counts(match, (known, _names(objects, classes, rows))),
        {"missed": len(missed), "false": len(false)},
        tuple(farthest_missed(missed, where[0], away) + worst_alone("false", false, where[1])),
    )


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) distance of each point (N, 2) to the nearest of the others; infinite without any."""
    if not len(others) or not len(points):
        return np.full(len(points), np.inf)
    return np.asarray(cKDTree(others).query(points)[0], dtype=np.float64)


def _names(
    objects: Objects, classes: Mapping[int, str] | tuple[str | None, ...], rows: NDArray[np.intp]
) -> Names:
    """(N,) class of each object, None where it has none."""
    if isinstance(objects, Polygons):
        return np.asarray(objects.class_name[rows], dtype=object)
    assert isinstance(classes, Mapping)
    return np.array([*(classes.get(i) for i in rows.tolist()), None], dtype=object)[:-1]


def _class_counts(points: Match, sides: tuple[Names, Names]) -> dict[str, NDArray[np.int64]]:
    return {name: type_counts(points, *sides, name) for name in _classes(sides)}


def _class_pq(overlaps: Overlaps, sides: tuple[Names, Names], rules: Rules) -> dict[str, Ratio]:
    """PQ of each class; predictions that match a true object of unknown class are left out."""
    how = {"threshold": rules.iou[0], "match_op": rules.match_op}
    match = match_overlaps(overlaps, **how)  # type: ignore[arg-type]
    unknown = np.array([name is None for name in sides[0]], dtype=np.bool_)
    fair = np.ones(len(overlaps.pred_id), np.bool_)
    fair[match.pred[unknown[match.truth]]] = False
    found = {}
    for name in _classes(sides):
        part = _restricted(overlaps, sides[0] == name, (sides[1] == name) & fair)
        found[name] = pq(match_overlaps(part, **how))  # type: ignore[arg-type]
    return found


def _classes(sides: tuple[Names, Names]) -> list[str]:
    """Names of the classes of an image; none where a side has no class at all."""
    truth, pred = ({n for n in side if n is not None} for side in sides)
    return sorted(truth | pred) if truth and pred else []


def _restricted(overlaps: Overlaps, truth: NDArray[np.bool_], pred: NDArray[np.bool_]) -> Overlaps:
    """Some objects of a table, for a match.

    ``Overlaps.restrict`` also vouches for the foreground, which it cannot where polygons overlap.
    """
    keep = truth[overlaps.truth] & pred[overlaps.pred]
    rows = (np.cumsum(truth) - 1)[overlaps.truth[keep]]
    cols = (np.cumsum(pred) - 1)[overlaps.pred[keep]]
    return Overlaps.build(
        (overlaps.truth_id[truth], overlaps.truth_size[truth]),
        (overlaps.pred_id[pred], overlaps.pred_size[pred]),
        (rows, cols, overlaps.size[keep]),
    )
