"""Estimate: what a batch would take, from a sample of its slides; nothing is written.

A sample of slides, evenly over their sizes, is opened in worker processes, each with one small
region really done; the others are taken to have as much tissue per byte. Faults of inputs that
come to light are told before the night instead of after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wsiseg.archive.place import looked_at
from wsiseg.archive.pool import Pool, Processes
from wsiseg.archive.records import Record
from wsiseg.archive.request import Request
from wsiseg.archive.resume import records_of, waiting
from wsiseg.archive.tasks import Event, Task

__all__ = ["Estimate", "estimate", "estimate_text"]

SAMPLE = 24
"""Slides that are opened."""

_CELL_BYTES = 500  # of one cell: GeoJSON, GeoParquet and region result, measured on H&E
_SLIDE_BYTES = 2_000_000  # preview and record, at most
_FILES_SHARE = 1.2  # stitching and writing after the regions: measured at up to a fifth


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of a batch before it is run."""

    slides: int
    done: int
    failed: int
    to_run: int
    sampled: int
    """Slides that were opened to know this."""
    tissue_mm2: float
    tiles: int
    """Regions with tissue."""
    cells: int
    minutes: float
    """Wall time with these workers."""
    bytes: int
    """That the archive will grow by."""
    workers: int
    faults: dict[str, str]
    """Slide id -> why it will fail, as far as is known."""


def estimate(
    request: Request,
    out: str | os.PathLike[str],
    *,
    pool: Pool | None = None,
    sample: int = SAMPLE,
) -> Estimate:
    """Estimate what ``run_batch`` would do. Raises as it does before anything is run."""
    with looked_at(out) as (folder, intact):
        if not request.fresh:
            folder.check(request.parts())
        known = folder.records()
        request = request.keeping(known)
        rows = [row for row in request.rows if request.mine(row)]
        records = records_of(request, rows, known, folder, intact)
    todo = waiting(records)
    chosen = _spread(todo, sample)
    pool = pool or Processes(min(request.workers, len(chosen) or 1), request.policy.timeout_s)
    try:
        events = _measured(pool, request, chosen)
    finally:
        pool.close()
    facts = {e.slide_id: e.facts for e in events if e.facts is not None}
    failed = [record for record in records if record.state == "failed"]
    faults = {r.slide_id: f"{r.code}: {r.message}" for r in failed}
    faults |= {e.slide_id: f"{e.fault.code}: {e.fault.message}" for e in events if e.fault}
    return Estimate(
        slides=len(records),
        done=sum(record.state == "done" for record in records),
        failed=len(failed),
        to_run=len(todo),
        sampled=len(chosen),
        workers=request.workers,
        faults=faults,
        **_extrapolated(todo, chosen, facts, request),
    )


def estimate_text(found: Estimate) -> str:
    """The estimate for people."""
    lines = [
        f"{found.slides:,} slides: {found.done:,} are done, {found.failed:,} have failed, "
        f"{found.to_run:,} are to be run",
    ]
    if found.to_run:
        lines += [
            f"  about {found.tissue_mm2:,.1f} mm² of tissue, {found.tiles:,} tiles, "
            f"{found.cells:,} cells",
            f"  about {found.minutes:,.1f} minutes with {found.workers} worker process(es), "
            f"{found.bytes / 1e9:,.2f} GB of results",
            f"  judged by {found.sampled:,} slides; nothing was written",
        ]
    return "\n".join([*lines, *(f"  {name}: {why}" for name, why in found.faults.items())])


def estimate_json(found: Estimate) -> dict[str, Any]:
    """The estimate as JSON values."""
    return asdict(found)


def _spread(todo: Sequence[Record], count: int) -> list[Record]:
    """``count`` of the slides, from the largest to the smallest."""
    if len(todo) <= count:
        return list(todo)
    return [todo[i * (len(todo) - 1) // (count - 1)] for i in range(count)]


def _measured(pool: Pool, request: Request, chosen: Iterable[Record]) -> list[Event]:
    rows = {row.slide_id: row for row in request.rows}
    queue, ended, running = list(chosen)[::-1], [], 0
    while queue or running:
        while queue and pool.room > 0:
            row = rows[queue.pop().slide_id]
            settings = request.job_settings(row)
            pool.start(Task("measure", row.slide_id, row.path, "unused", settings))
            running += 1
        finals = [event for event in pool.wait(1.0) if event.kind != "progress"]
        ended += finals
        running -= len(finals)
    return ended


def _extrapolated(
    todo: Sequence[Record],
    chosen: Sequence[Record],
    facts: Mapping[str, Mapping[str, Any]],
    request: Request,
) -> dict[str, Any]:
    """Sums over the slides that were measured, scaled by bytes to those that were not."""
    measured = [record for record in chosen if record.slide_id in facts]
    seen = sum(record.input_bytes or 0 for record in measured)
    bad = {r.slide_id for r in chosen} - facts.keys()
    every = sum(r.input_bytes or 0 for r in todo if r.slide_id not in bad)
    scale = every / seen if seen else 0.0
    total = {name: scale * sum(f[name] for f in facts.values()) for name in _SUMMED}
    trial = {name: sum(f[name] for f in facts.values()) for name in _TRIED}
    area = trial["trial_mm2"]
    per_mm2 = trial["trial_seconds"] / area if area else 0.0
    cells = total["analysed_mm2"] * (trial["trial_cells"] / area if area else 0.0)
    seconds = total["seconds"] + total["analysed_mm2"] * per_mm2 * _FILES_SHARE / (
        request.threads or 1
    )
    slides = len(todo) - len(bad)
    return {
        "tissue_mm2": round(total["tissue_mm2"], 3),
        "tiles": round(total["tiles"]),
        "cells": round(cells),
        "minutes": round(seconds / 60 / max(1, min(request.workers, slides)), 2),
        "bytes": round(cells * _CELL_BYTES + slides * _SLIDE_BYTES),
    }


_SUMMED = ("tissue_mm2", "analysed_mm2", "tiles", "seconds")
_TRIED = ("trial_mm2", "trial_seconds", "trial_cells")
