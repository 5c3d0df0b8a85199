"""The document of an evaluation as plain text tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["columns_text", "report_text"]

Document = Mapping[str, Any]

_NAMES = {
    "dice": "Dice",
    "dice2": "Dice2",
    "aji": "AJI",
    "aji_plus": "AJI+",
    "tp": "TP",
    "fp": "FP",
    "fn": "FN",
    "f1": "F1",
    "ap": "AP",
    "dq": "DQ",
    "sq": "SQ",
    "pq": "PQ",
    "mpq": "mPQ",
    "bpq": "bPQ",
}


def report_text(found: Document) -> str:
    """What ``evaluate`` or ``evaluate_set`` found, as text to be printed; "-" where undefined."""
    blocks = _set(found) if "images" in found else _pair(found)
    return "\n\n".join(blocks)


def _pair(found: Document) -> list[str]:
    blocks = [_sides(found), columns_text([_titled(found["metrics"])])]
    matches = found["matches"]
    op = found["rules"]["match_op"]
    blocks.append(columns_text([{"IoU": f"{op} {t}"} | _titled(m) for t, m in matches.items()]))
    rules = found["rules"]
    reach = f"{rules['radius']:g} {rules['radius_unit'].replace('um', 'µm')}"
    blocks.append(columns_text([{"centroids": f"<= {reach}"} | _titled(found["detection"])]))
    if "classes" in found:
        blocks.append(columns_text([_class(name, c) for name, c in found["classes"].items()]))
        blocks.append(
            columns_text([{"IoU": f"{op} {t}", "mPQ": v} for t, v in found["mpq"].items()])
        )
    return blocks


def _set(found: Document) -> list[str]:
    rows = [{"metric": _metric(name)} | row for name, row in found["aggregate"].items()]
    rows += [{"metric": f"mPQ @ {t}"} | row for t, row in found.get("mpq", {}).items()]
    for name, metrics in found.get("classes", {}).items():
        rows += [
            {"metric": f"{name}: {_metric(m)}"} | row
            for m, row in metrics.items()
            if m.startswith(("pq@", "f1@"))
        ]
    return [f"{len(found['images'])} images", columns_text(rows)]


def _sides(found: Document) -> str:
    rows = [{"": side} | _side(found[side]) for side in ("truth", "prediction")]
    return columns_text(rows)


def _side(side: Document) -> dict[str, Any]:
    shown = {"objects": side["objects"], "as": side["kind"], "file": side["path"]}
    lost = {name.replace("_", " "): side[name] for name in ("left_out", "outside")}
    remarks = [f"{n} {what}" for what, n in lost.items() if n]
    return shown | {"file": side["path"] + (f" ({', '.join(remarks)})" if remarks else "")}


def _class(name: str, found: Document) -> dict[str, Any]:
    threshold, match = next(iter(found["matches"].items()))
    columns = {"class": name, "true": found["objects"]["truth"]}
    columns |= {"predicted": found["objects"]["prediction"]}
    columns |= {f"{_NAMES[m]} @ {threshold}": match[m] for m in ("f1", "pq")}
    return columns | {"AJI": found["metrics"]["aji"], "F1 centroids": found["detection"]["f1"]}


def _titled(values: Document) -> dict[str, Any]:
    return {_NAMES.get(name, name): value for name, value in values.items()}


def _metric(name: str) -> str:
    base, at, where = name.partition("@")
    return f"{_NAMES.get(base, base)}{' @ ' if at else ''}{where}"


def columns_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys under one heading; text to the left, numbers to the right."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [heads, *([_cell(row[h]) for h in heads] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    left = [isinstance(rows[0][h], str) for h in heads]
    lines = (
        "  ".join(
            c.ljust(w) if to_left else c.rjust(w)
            for c, w, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    )
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
