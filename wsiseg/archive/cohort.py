"""cohort.parquet: a row per slide that is done, for statistics over all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wsiseg.archive.records import Record
from wsiseg.atomic import atomic_write

__all__ = ["COHORT", "write_cohort"]

COHORT = "cohort.parquet"


def write_cohort(root: Path, records: Iterable[Record]) -> None:
    """Write the table of all slides that are done, ordered by id; OutputError.

    Columns: ``slide_id``, ``group``, ``cells``, ``tissue_mm2``, ``analysed_mm2``,
    ``cells_per_mm2`` (of tissue; null without any), ``cells_<class>`` and ``<class>_per_mm2`` of
    each class that any model has (null where a slide's has not), ``dropped`` (objects left out)
    and ``dropped_by`` (JSON: by reason), ``warnings``, ``model``, ``model_sha256`` and
    ``numerics``, within which cells of equal slides are equal bit for bit.
    """
    import pyarrow.parquet as pq

    done = sorted((r for r in records if r.state == "done"), key=lambda r: r.slide_id)
    with atomic_write(root / COHORT) as file:
        pq.write_table(_table(done), file, compression="zstd")


def _table(done: Sequence[Record]) -> Any:
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    columns = {
        "slide_id": pa.array([r.slide_id for r in done], text),
        "group": pa.array([r.group or None for r in done], text),
        "cells": pa.array([r.cells for r in done], whole),
        "tissue_mm2": pa.array([r.tissue_mm2 for r in done], real),
        "analysed_mm2": pa.array([r.analysed_mm2 for r in done], real),
        "cells_per_mm2": pa.array([_density(r.cells, r) for r in done], real),
    }
    for name in dict.fromkeys(name for r in done for name in r.classes):
        counts = [r.classes.get(name) for r in done]
        columns[f"cells_{name}"] = pa.array(counts, whole)
        densities = [_density(n, r) for n, r in zip(counts, done, strict=True)]
        columns[f"{name}_per_mm2"] = pa.array(densities, real)
    columns |= {
        "dropped": pa.array([sum(r.dropped.values()) for r in done], whole),
        "dropped_by": pa.array([json.dumps(r.dropped, sort_keys=True) for r in done], text),
        "warnings": pa.array([r.warnings for r in done], pa.list_(text)),
        "model": pa.array([r.model for r in done], text),
        "model_sha256": pa.array([r.model_sha256 for r in done], text),
        "numerics": pa.array([r.numerics for r in done], text),
    }
    return pa.table(columns)


def _density(count: int | None, record: Record) -> float | None:
    return count / record.tissue_mm2 if count is not None and record.tissue_mm2 else None
