"""Writing and reading 100 000 cells: seconds of processor time and bytes, per format.

python benchmarks/export.py [N]
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from record import save

from wsiseg.cells.batch import CellBatch, uuids_from
from wsiseg.cells.layer import Cells
from wsiseg.export import exportable, write
from wsiseg.export.geojson_read import read_geojson

NAMES = ("cells.geojson", "cells.geojson.gz", "cells.parquet", "cells.csv")
VERTICES, PITCH, BATCH = 24, 30.0, 10_000


def batches(n: int, decimals: int) -> Iterator[CellBatch]:
    """N round cells on a grid, of 24 vertices, rounded to ``decimals``; seeded."""
    rng = np.random.default_rng(0)
    wide = int(np.ceil(np.sqrt(n)))
    turn = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for first in range(0, n, BATCH):
        place = np.stack(np.divmod(np.arange(first, min(first + BATCH, n)), wide)[::-1], axis=1)
        radius = rng.uniform(7, 12, (len(place), 1, 1)) * rng.uniform(0.92, 1.08, (VERTICES, 1))
        rings = np.round(place[:, None] * PITCH + PITCH + radius * circle, decimals)
        geometry = shapely.polygons(rings)
        index = rng.integers(0, 3, len(place), dtype=np.int32)
        columns = {
            "Area µm^2": np.round(shapely.area(geometry) / 16, 4),
            "Score": np.round(rng.random(len(place)), 4),
        }
        names = ("epithelial", "inflammatory", "spindle")
        yield CellBatch(uuids_from(geometry, first), geometry, index, names, columns)


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return round(time.process_time() - start, 2)


def measure(n: int, decimals: int, folder: Path) -> dict[str, Any]:
    """Each step once, cells made beforehand."""
    cells = list(batches(n, decimals))
    paths = {name: folder / name for name in NAMES}
    result: dict[str, Any] = {"exportable_s": seconds(lambda: [exportable(b) for b in cells])}
    for name, path in paths.items():
        result[f"write {name}"] = {
            "seconds": seconds(lambda path=path: write(iter(cells), path)),
            "bytes": path.stat().st_size,
        }
    saved = Cells.open(paths["cells.parquet"])
    window = (1000, 1000, 3000, 3000)
    result |= {
        "read cells.geojson.gz_s": seconds(lambda: list(read_geojson(paths["cells.geojson.gz"]))),
        "read cells.parquet_s": seconds(lambda: list(saved.batches())),
        "geopandas_s": seconds(lambda: geopandas.read_parquet(paths["cells.parquet"])),
        "geopandas 2000 x 2000 px_s": seconds(lambda: saved.to_geopandas(window)),
    }
    return result


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    result: dict[str, Any] = {"cells": n, "vertices": VERTICES}
    with tempfile.TemporaryDirectory() as folder:
        for decimals, name in ((0, "whole_px"), (2, "hundredths_px")):
            result[name] = measure(n, decimals, Path(folder))
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path = save("export", result)
    print(json.dumps(result, indent=2, ensure_ascii=False))
    print(f"written to {path.name}")


if __name__ == "__main__":
    main()
