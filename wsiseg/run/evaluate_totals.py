"""Totals of an evaluation: scores over images, pooled and as a mean, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.metrics import (
    Estimate,
    Ratio,
    Resamples,
    Rules,
    aggregate,
    aggregate_classes,
    mean_of,
    ratio_of,
    weighted_type_f1,
)
from wsiseg.metrics.bootstrap import Floats, Statistic
from wsiseg.run.evaluate_image import Judged

__all__ = ["ENOUGH", "error_base", "image_row", "number", "remarks", "totals"]

ENOUGH = 5
"""Cases from which an interval is given without a word: three have ten different resamples."""

Document = dict[str, Any]

_NONE = Ratio(0.0, 0.0, True)  # of an image that a metric does not apply to


def totals(judged: Sequence[Judged], rules: Rules, resamples: Resamples) -> Document:
    """The scores of ``judged`` (N,) images together.

    Each metric has ``mean`` (over images) and ``pooled`` (as if the images were one), each with
    ``_95`` ([low, high], or null: see ``Resamples.estimate``), ``n`` and ``n_excluded`` (images
    that count in the mean, and those where the metric is undefined). ``outlined`` counts the
    images with outlines and their objects, to which all errors but missed and false belong.
    ``classes`` has F_c ("f1_type") and PQ by class. ``mpq``: mPQ (``mean``) and mPQ+ (``pooled``).
    ``weighted_f1``: the mean F1 of classes weighted by their counts, of found nuclei
    (``classification``) and of all (``with_detection``).
    """
    names = dict.fromkeys(name for one in judged for name in one.scores)
    found: Document = {
        "images": len(judged),
        "cases": resamples.cases,
        "truth": sum(one.truth for one in judged),
        "predicted": sum(one.pred for one in judged),
        "outlined": {
            "images": sum(not one.case.centres for one in judged),
            "truth": sum(one.truth for one in judged if not one.case.centres),
            "predicted": sum(one.pred for one in judged if not one.case.centres),
        },
        "metrics": {
            name: _metric([one.scores.get(name) for one in judged], rules, resamples)
            for name in names
        },
        "errors": _summed([one.errors for one in judged]),
    }
    return found | _class_part(judged, rules, resamples)


def error_base(found: Mapping[str, Any], kind: str) -> int:
    """Number of objects that an error of ``kind`` is a part of, in one of the ``totals``."""
    side = "predicted" if kind in ("false", "merged") else "truth"
    whole = found if kind in ("missed", "false") else found["outlined"]
    return int(whole[side])


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the scores of ``evaluate_images`` must know of single sets."""
    small = [
        f"{name}: interval of {row['cases']} cases: too narrow to trust."
        for name, row in found["sets"].items()
        if 1 < row["cases"] < ENOUGH
    ]
    shifted = [
        f"{name}: centres count from 1 (some lie beyond the last px): 1 px taken off."
        for name, origin in found["centres_count_from"].items()
        if origin
    ]
    return small + shifted


def image_row(one: Judged, rules: Rules) -> Document:
    """One image as flat columns, for ``results.csv``."""
    case = one.case
    row: Document = {"image": case.name, "set": case.set, "split": case.split, "case": case.case}
    row |= {"mpp": case.mpp, "truth": one.truth, "predicted": one.pred}
    row |= {name: number(ratio.value(rules.empty)) for name, ratio in one.scores.items()}
    row |= {f"errors: {kind}": count for kind, count in one.errors.items()}
    for name, counts in one.class_counts.items():
        row[f"f1_type: {name}"] = number(type_ratio(counts).value(rules.empty))
    for name, ratio in one.class_pq.items():
        row[f"pq: {name}"] = number(ratio.value(rules.empty))
    return row


def number(value: float) -> float | None:
    """``value``, None (JSON's null) where it is NaN."""
    return None if isnan(value) else float(value)


def type_ratio(counts: NDArray[np.int64]) -> Ratio:
    """F_c of ``type_counts`` (5,), with the weights 2, 2, 1, 1 (see ``type_f1``)."""
    tp, fp, fn, fp_d, fn_d = counts.tolist()
    return Ratio(2 * tp, 2 * (tp + fp + fn) + fp_d + fn_d, not counts.any())


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for one in counts for name in one)
    return {name: sum(one.get(name, 0) for one in counts) for name in names}


def _metric(ratios: Sequence[Ratio | None], rules: Rules, resamples: Resamples) -> Document:
    """One metric; None where it does not apply to an image."""
    known = [ratio for ratio in ratios if ratio is not None]
    total = aggregate(known, rules.empty)
    filled = [ratio or _NONE for ratio in ratios]
    values = [nan if ratio is None else ratio.value(rules.empty) for ratio in ratios]
    parts = np.array([(r.numerator, r.denominator) for r in filled]).reshape(-1, 2)
    return {
        **_estimate("mean", total.mean, mean_of(np.array(values)), resamples),
        **_estimate("pooled", total.pooled, ratio_of(*parts.T), resamples),
        "n": total.n,
        "n_excluded": total.n_excluded,
    }


def _class_part(judged: Sequence[Judged], rules: Rules, resamples: Resamples) -> Document:
    classes = sorted({name for one in judged for name in one.class_counts})
    if not classes:
        return {}
    counts = np.zeros((len(judged), len(classes), 5), np.int64)
    for i, one in enumerate(judged):
        for name, value in one.class_counts.items():
            counts[i, classes.index(name)] = value
    found = {}
    for k, name in enumerate(classes):
        ratios = [
            type_ratio(counts[i, k]) if j.class_counts else None for i, j in enumerate(judged)
        ]
        quality = [j.class_pq.get(name, _NONE) if j.class_pq else None for j in judged]
        tp, fp, fn, fp_d, fn_d = counts[:, k].sum(axis=0).tolist()
        found[name] = {
            "truth": tp + fn + fn_d,
            "predicted": tp + fp + fp_d,
            "f1_type": _metric(ratios, rules, resamples),
        }
        if any(ratio is not None for ratio in quality):
            found[name]["pq"] = _metric(quality, rules, resamples)
    weighted = {
        name: _value(_weighted(counts, with_detection=joint), resamples)
        for name, joint in (("classification", False), ("with_detection", True))
    }
    part: Document = {"classes": found, "weighted_f1": weighted}
    return part | _mpq([j.class_pq for j in judged], classes, rules, resamples)


def _mpq(
    images: Sequence[Mapping[str, Ratio]],
    classes: Sequence[str],
    rules: Rules,
    resamples: Resamples,
) -> Document:
    applicable = [image for image in images if image]
    if not applicable:
        return {}
    total = aggregate_classes(applicable, rules.empty)
    filled = [[image.get(c, _NONE) for c in classes] for image in images]
    parts = np.array([[(r.numerator, r.denominator) for r in row] for row in filled])
    values = [aggregate_classes([i], rules.empty).mean if i else nan for i in images]
    return {
        "mpq": {
            **_estimate("mean", total.mean, mean_of(np.array(values)), resamples),
            **_estimate("pooled", total.pooled, _mean_over_classes(parts), resamples),
            "n": total.n,
            "n_excluded": total.n_excluded,
        }
    }


def _mean_over_classes(parts: Floats) -> Statistic:
    """mPQ+ of numerators and denominators (N, C, 2): classes pooled over images, then averaged."""

    def statistic(weights: Floats) -> Floats:
        sums = np.tensordot(weights, parts, axes=1)  # (B, C, 2)
        known = sums[..., 1] > 0
        values = np.where(known, sums[..., 0], 0.0) / np.where(known, sums[..., 1], 1.0)
        count = known.sum(axis=1)
        mean = values.sum(axis=1) / np.maximum(count, 1)
        return np.asarray(np.where(count > 0, mean, nan))

    return statistic


def _weighted(counts: NDArray[np.int64], *, with_detection: bool) -> Statistic:
    """The weighted class F1 of ``type_counts`` (N, C, 5)."""

    def statistic(weights: Floats) -> Floats:
        sums = np.tensordot(weights, counts.astype(np.float64), axes=1)  # (B, C, 5)
        return weighted_type_f1(sums, with_detection=with_detection)

    return statistic


def _value(statistic: Statistic, resamples: Resamples) -> Document:
    found = resamples.estimate(statistic)
    return {"value": number(found.value), "value_95": _interval(found)}


def _estimate(name: str, value: float, statistic: Statistic, resamples: Resamples) -> Document:
    """``value`` and the interval of ``statistic``, whose value it is (but for the empty policy)."""
    return {name: number(value), f"{name}_95": _interval(resamples.estimate(statistic))}


def _interval(found: Estimate) -> list[float] | None:
    return None if isnan(found.low) else [found.low, found.high]
