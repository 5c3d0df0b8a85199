"""The document of an evaluation of many images as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsiseg.metrics import ERROR_TYPES
from wsiseg.run.evaluate_text import columns_text
from wsiseg.run.evaluate_totals import error_base, remarks

__all__ = ["images_text"]

Document = Mapping[str, Any]

_FILES = {
    "results.json": "every number: settings, intervals, pooled and mean, per set and image",
    "results.csv": "one row per image, for a spreadsheet",
    "worst.html": "open it in a browser: the worst images, and errors by type",
}
_DASH = "-"


def images_text(found: Document, out: Path | None) -> str:
    """What ``evaluate_images`` found: tables, where the files are, and what comes next."""
    blocks = [_heading(found), _scores(found), _errors(found)]
    blocks += _classes(found)
    blocks += [_remarks(found), "\n".join(_next(found, out))]
    return "\n\n".join(block for block in blocks if block)


def _heading(found: Document) -> str:
    made, total = found["predictions"], found["total"]
    what = f"model {made['model']} ({made['sha256'][:12]})" if "model" in made else made["folder"]
    split = found["settings"]["split"]
    return (
        f"{what} on {total['images']} images of split {split}: {total['truth']:,} true and "
        f"{total['predicted']:,} predicted nuclei"
    )


def _rows(found: Document) -> dict[str, Document]:
    sets = dict(found["sets"])
    return {**sets, "all": found["total"]} if len(sets) > 1 else sets


def _scores(found: Document) -> str:
    t = f"{found['settings']['iou'][0]:g}"
    wanted = {"Dice": "dice", "AJI": "aji", "AJI+": "aji_plus"}
    wanted |= {"DQ": f"dq@{t}", "SQ": f"sq@{t}", "PQ": f"pq@{t}"}
    with_interval = ("Dice", "AJI", "PQ")
    rows = []
    for name, row in _rows(found).items():
        metrics = row["metrics"]
        line = {"set": name, "images": row["images"], "cases": row["cases"]}
        for head, key in wanted.items():
            line[head] = _mean(metrics.get(key), head in with_interval)
        line["F1 of centres"] = _pooled(metrics.get("f1@detection"))
        rows.append(line)
    return columns_text(rows)


def _errors(found: Document) -> str:
    rows = []
    for name, row in _rows(found).items():
        line: dict[str, Any] = {"errors": name}
        for kind in ERROR_TYPES:
            count = row["errors"].get(kind)
            whole = error_base(row, kind)
            share = f" ({count / whole:4.0%})" if count is not None and whole else ""
            line[kind] = _DASH if count is None else f"{count:,}{share}"
        rows.append(line)
    return columns_text(rows)


def _classes(found: Document) -> Iterator[str]:
    """A table of classes for each set that has them."""
    for name, row in found["sets"].items():
        if "classes" not in row:
            continue
        rows = []
        for of_class, scores in row["classes"].items():
            line = {f"classes of {name}": of_class, "true": scores["truth"]}
            line |= {"predicted": scores["predicted"], "F_c": _pooled(scores["f1_type"])}
            rows.append(line | {"PQ": _mean(scores.get("pq"), True)})
        weighted = row["weighted_f1"]
        ends = [f"weighted F1 {_value(weighted['classification'])} of found nuclei"]
        ends.append(f"{_value(weighted['with_detection'])} with detection")
        if "mpq" in row:
            ends.insert(0, f"mPQ {_mean(row['mpq'], True)}, mPQ+ {_pooled(row['mpq'])}")
        yield columns_text(rows) + "\n" + "; ".join(ends)


def _remarks(found: Document) -> str:
    lines = [
        "Dice to PQ are means over images, F1 and F_c are of all nuclei pooled, as in the papers; "
        "in brackets 95 % bootstrap intervals over cases."
    ]
    single = [name for name, row in found["sets"].items() if row["cases"] < 2]
    if single:
        lines.append(f"No interval for {', '.join(single)}: a single case cannot tell its spread.")
    lines += remarks(found)
    excluded = {
        name: row["metrics"]["dice"]["n_excluded"]
        for name, row in found["sets"].items()
        if row["metrics"].get("dice", {}).get("n_excluded")
    }
    lines += [f"{n} images of {name} are empty on both sides." for name, n in excluded.items()]
    skipped = found["skipped"]
    if skipped:
        sets = ", ".join(dict.fromkeys(one["set"] for one in skipped))
        lines.append(
            f"Left out: {len(skipped)} images of unknown pixel size ({sets}); give --unknown-mpp "
            "to say what it is."
        )
    return "\n".join(lines)


def _next(found: Document, out: Path | None) -> Iterator[str]:
    if out is None:
        yield "Nothing was written: add --out DIR for all numbers and a page of the worst cases."
        return
    yield from (f"{out / name}: {use}" for name, use in _FILES.items())
    if "model" in found["predictions"]:
        yield (
            f"{out / 'cells'}: the cells that were found; evaluate them again by other rules with "
            f"--pred {out / 'cells'}"
        )


def _mean(metric: Document | None, interval: bool) -> str:
    if metric is None or metric["mean"] is None:
        return _DASH
    return _with(metric["mean"], metric["mean_95"] if interval else None)


def _pooled(metric: Document | None) -> str:
    if metric is None or metric["pooled"] is None:
        return _DASH
    return _with(metric["pooled"], metric["pooled_95"])


def _value(metric: Document) -> str:
    return _DASH if metric["value"] is None else _with(metric["value"], metric["value_95"])


def _with(value: float, interval: list[float] | None) -> str:
    return f"{value:.3f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")
