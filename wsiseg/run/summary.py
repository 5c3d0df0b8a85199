"""Summary: what a run found, where the files are, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["summary_text"]

_USES = {
    "cells.geojson.gz": "drag it onto the open slide in QuPath (0.4 or later)",
    "cells.parquet": "geopandas.read_parquet(...), or wsiseg.Cells.open(...)",
    "cells.csv": "one row per cell, for a spreadsheet",
    "preview.png": "the slide with its cells at a glance",
    "run.json": "the record: parameters, versions, timings, what was dropped",
}


def summary_text(facts: dict[str, Any], out: Path) -> str:
    """The summary of ``run.json`` for people."""
    slide, seconds = facts["slide"], facts["seconds"]
    lines = [f"{Path(slide['uri']).name}: {_cells(facts)}"]
    lines += [f"  warning: {text}" for text in facts["warnings"]]
    if facts["dropped"]:
        left_out = ", ".join(f"{n:,} {k.replace('_', ' ')}" for k, n in facts["dropped"].items())
        lines.append(f"  left out: {left_out}")
    lines.append(
        f"  analysed {facts['analysed_mm2']:.3f} mm² in {seconds['total']:.1f} s "
        f"(start-up {seconds.get('startup', 0):.1f} s), "
        f"peak memory {facts['peak_rss_bytes'] / 1e9:.2f} GB"
    )
    resumed = facts["regions"]["resumed"]
    if resumed:
        lines.append(f"  {resumed} of {facts['regions']['total']} regions were there already")
    lines += [f"  {out / name}: {_USES[name]}" for name in facts["files"]]
    return "\n".join(lines)


def _cells(facts: dict[str, Any]) -> str:
    area = facts["tissue_mm2"]
    text = f"{facts['cells']:,} cells on {area:.3f} mm² of tissue"
    if not facts["cells"]:
        return f"no cells were found on {area:.3f} mm² of tissue; the files are valid and empty"
    return f"{text} ({facts['cells'] / area:,.0f} per mm²)" if area else text
