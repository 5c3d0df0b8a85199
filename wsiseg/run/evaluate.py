"""Evaluate: a file of predicted objects against a file of true ones, as a document of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

from wsiseg.metrics import (
    MATCH_METRICS,
    OVERLAP_METRICS,
    Aggregate,
    Overlaps,
    Ratio,
    Rules,
    aggregate,
    aggregate_classes,
    aggregate_scores,
    match_points,
    point_scores,
    polygon_overlaps,
    scores,
    type_f1,
)
from wsiseg.metrics.summary import Scores
from wsiseg.run.evaluate_compare import Objects, compare_objects
from wsiseg.run.evaluate_text import report_text
from wsiseg.run.inputs import Polygons, read_objects

__all__ = ["evaluate", "evaluate_set", "report_text"]

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Evaluation:
    document: Document
    scores: Scores
    of_class: dict[str, Scores]


def evaluate(truth: str | Path, pred: str | Path, rules: Rules | None = None) -> Document:
    """Compare the objects of two files; the result can be written as JSON (None where undefined).

    Files: label images (.png of 8 or 16 bits, .npy, .tif) and polygons (.geojson, .json, either
    gzipped, and .parquet as wsiseg writes it), in level-0 px (x, y). Two label images must have
    one shape. Polygons against a label image are put on its grid by pixel centres, the image
    being level 0 with its first pixel at (0, 0); what lies beyond it is counted as ``outside``
    and not judged. Polygons against polygons are compared by area.

    The document: ``truth`` and ``prediction`` (path, kind, objects, left_out, outside),
    ``rules``, ``metrics`` (dice, dice2, aji, aji_plus), ``matches`` (IoU threshold -> tp, fp, fn
    and the metrics of a match), ``detection`` (centroids), and where both sides have classes
    ``classes`` (the same per class, with ``detection.f1`` being F_c of the HoVer-Net paper) and
    ``mpq`` (IoU threshold -> mean PQ over classes).

    Raises InputFileError where a file is missing or not what it should be, or the shapes differ.
    """
    return _evaluate(Path(truth), Path(pred), rules or Rules()).document


def evaluate_set(
    pairs: Iterable[tuple[str | Path, str | Path]], rules: Rules | None = None
) -> Document:
    """Compare (truth, prediction) pairs of files, and aggregate over them.

    ``images`` holds one document of ``evaluate`` each; ``aggregate`` holds every metric, pooled
    and as a mean over images, with the number of images in the mean and left out of it (NaN);
    ``classes`` the same per class, and ``mpq`` per IoU threshold mPQ (``mean``) and mPQ+
    (``pooled``), where any pair has classes. "bpq" is PQ with all classes as one.
    """
    rules = rules or Rules()
    done = [_evaluate(Path(truth), Path(pred), rules) for truth, pred in pairs]
    total = aggregate_scores([one.scores for one in done], rules.empty)
    found: Document = {
        "rules": _rules(rules),
        "images": [one.document for one in done],
        "aggregate": {name: _aggregate(value) for name, value in total.items()},
    }
    if any(one.of_class for one in done):
        found |= _over_classes([one.of_class for one in done], rules)
    return found


def _evaluate(truth: Path, pred: Path, rules: Rules) -> _Evaluation:
    sides = read_objects(truth), read_objects(pred)
    compared = compare_objects(*sides, names=(truth, pred))
    spacing = rules.mpp or 1.0
    points = match_points(
        compared.truth_points, compared.pred_points, rules.radius, spacing=spacing
    )
    table = compared.overlaps
    found = scores(table, rules) | point_scores(points)
    document: Document = {
        "truth": _side(truth, sides[0], len(table.truth_id), compared.outside[0]),
        "prediction": _side(pred, sides[1], len(table.pred_id), compared.outside[1]),
        "rules": _rules(rules),
        **_layer(found, rules),
        "detection": _match(found, "detection", rules),
    }
    of_class: dict[str, Scores] = {}
    if isinstance(sides[0], Polygons) and isinstance(sides[1], Polygons):
        tables = _class_tables(sides[0], sides[1])
        names = sides[0].class_name, sides[1].class_name
        of_class = {
            c: scores(t, rules) | {"f1@detection": type_f1(points, *names, c)}
            for c, t in tables.items()
        }
        document |= _class_part(tables, of_class, rules)
    return _Evaluation(document, found, of_class)


def _class_tables(truth: Polygons, pred: Polygons) -> dict[str, Overlaps]:
    """The table of each class by name; none where one side has no class at all."""
    sides = [{n for n in side.class_name if n is not None} for side in (truth, pred)]
    if not (sides[0] and sides[1]):
        return {}
    return {
        name: polygon_overlaps(
            truth.geometry[truth.class_name == name], pred.geometry[pred.class_name == name]
        )
        for name in sorted(sides[0] | sides[1])
    }


def _class_part(
    tables: Mapping[str, Overlaps], of_class: Mapping[str, Scores], rules: Rules
) -> Document:
    if not tables:
        return {}
    classes = {
        name: {"objects": {"truth": len(table.truth_id), "prediction": len(table.pred_id)}}
        | _layer(of_class[name], rules)
        | {"detection": _named(of_class[name], "detection", rules)}
        for name, table in tables.items()
    }
    return {"classes": classes, "mpq": {t: v["mean"] for t, v in _mpq([of_class], rules).items()}}


def _mpq(images: Sequence[Mapping[str, Scores]], rules: Rules) -> Document:
    """Per IoU threshold mPQ and mPQ+."""
    found = {}
    for threshold in map(_key, rules.iou):
        pq = [{c: s[f"pq@{threshold}"] for c, s in image.items()} for image in images]
        found[threshold] = _aggregate(aggregate_classes(pq, rules.empty))
    return found


def _over_classes(images: list[dict[str, Scores]], rules: Rules) -> Document:
    none = Ratio(0.0, 0.0, True)  # an image without the class
    names = sorted({c for image in images for c in image})
    metrics = dict.fromkeys(m for image in images for s in image.values() for m in s)
    classes = {
        c: {
            m: _aggregate(aggregate((i.get(c, {}).get(m, none) for i in images), rules.empty))
            for m in metrics
        }
        for c in names
    }
    return {"classes": classes, "mpq": _mpq(images, rules)}


def _layer(found: Scores, rules: Rules) -> Document:
    """The part of a document that a class and the whole have in common."""
    metrics = {name: _number(found[name].value(rules.empty)) for name in OVERLAP_METRICS}
    matches = {t: _match(found, t, rules) for t in map(_key, rules.iou)}
    return {"metrics": metrics, "matches": matches}


def _match(found: Scores, kind: str, rules: Rules) -> Document:
    """Counts and metrics of one match."""
    precision, recall = found[f"precision@{kind}"], found[f"recall@{kind}"]
    tp = int(precision.numerator)
    counts = {"tp": tp, "fp": int(precision.denominator) - tp, "fn": int(recall.denominator) - tp}
    return counts | _named(found, kind, rules)


def _named(found: Scores, kind: str, rules: Rules) -> Document:
    """The metrics called ``name@kind``, by name."""
    names = [name for name in MATCH_METRICS if f"{name}@{kind}" in found]
    return {name: _number(found[f"{name}@{kind}"].value(rules.empty)) for name in names}


def _side(path: Path, objects: Objects, count: int, outside: int) -> Document:
    polygons = isinstance(objects, Polygons)
    return {
        "path": str(path),
        "kind": "polygons" if polygons else "labels",
        "shape": None if isinstance(objects, Polygons) else list(objects.shape),
        "objects": count,
        "left_out": objects.left_out if isinstance(objects, Polygons) else 0,
        "outside": outside,
    }


def _rules(rules: Rules) -> Document:
    return asdict(rules) | {"iou": list(rules.iou), "radius_unit": "um" if rules.mpp else "px"}


def _key(threshold: float) -> str:
    return f"{threshold:g}"


def _aggregate(value: Aggregate) -> Document:
    return {name: _number(v) for name, v in asdict(value).items()}


def _number(value: float) -> float | None:
    return None if isnan(value) else value
