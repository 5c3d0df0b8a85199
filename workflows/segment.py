"""Segment the slides of a TOML file, one after the other, and tell how many cells each holds.

python workflows/segment.py workflows/segment.toml
"""

import sys
import tomllib
from pathlib import Path

import wsiseg
from wsiseg.errors import WsisegError


def main(config: Path) -> int:
    """Segment every slide; the number of those that failed."""
    plan = tomllib.loads(config.read_text(encoding="utf-8"))
    settings = dict(plan.get("settings", {}))
    settings["formats"] = tuple(settings.get("formats", ("geojson", "parquet")))
    failed = 0
    for slide in map(Path, plan["slides"]):
        try:
            cells = wsiseg.segment(slide, Path(plan["out"]) / slide.name, **settings)
        except WsisegError as error:
            print(f"{slide.name}: failed: {error}", file=sys.stderr)
            failed += 1
        else:
            print(f"{slide.name}: {len(cells):,} cells on {cells.made['tissue_mm2']:.2f} mm²")
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1]))))
