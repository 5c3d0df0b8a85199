"""Writing and reading a million cells: outlines of the stitched biopsy as exported, repeated.

python benchmarks/export.py [CELLS]

Wall and processor seconds of each file with id and class alone, once for cells as a run hands them
over and once for cells that must be looked at first (a user's own); then what else there is to
write and read, on a tenth of the cells.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import shapely
from biopsy import BIOPSY, densest, plan_for
from record import save

from wsiseg.cells.batch import CellBatch, rechunk
from wsiseg.cells.build import CellRecipe, cells_of
from wsiseg.cells.layer import Cells
from wsiseg.cells.objects import Objects, objects_in
from wsiseg.engine.collect import BATCH, CELL
from wsiseg.export import write, write_all
from wsiseg.export.geojson_read import read_geojson
from wsiseg.run.report import peak_rss_bytes

FIELDS = 4  # of CELL px, the densest of the biopsy
GOALS = {"cells.geojson.gz": 8.0, "cells.parquet": 6.0}
WINDOW = 2000  # px
WINDOW_GOAL = 0.15


def fields() -> tuple[list[Objects], CellRecipe]:
    """Objects of the default model in squares of the biopsy, each at the origin."""
    plan = plan_for(BIOPSY)
    found = []
    for window in densest(plan, CELL, FIELDS):
        channels = np.concatenate([window.maps.prob[None], window.maps.classes])
        found.append(objects_in(plan.model.decode(window.maps), channels, (0, 0)))
    return found, plan.recipe


def batches(n: int) -> Iterator[CellBatch]:
    """``n`` cells in canonical order: the fields in turn, over a square slide."""
    found, recipe = fields()
    wide = round((n / np.mean([len(objects) for objects in found])) ** 0.5)
    every = rechunk(_placed(found, recipe, wide), BATCH)
    left = n
    while left > 0:
        batch = next(every).take(slice(left))
        left -= len(batch)
        yield batch


def _placed(found: list[Objects], recipe: CellRecipe, wide: int) -> Iterator[CellBatch]:
    number = 0
    while True:
        objects, at = found[number % len(found)], np.divmod(number, wide)
        runs = objects.runs + np.array([at[0] * CELL, at[1] * CELL, 0], np.int32)
        yield cells_of(Objects(runs, objects.offsets, objects.sums), recipe)
        number += 1


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds of one call."""
    began, processor = time.perf_counter(), time.process_time()
    work()
    return {
        "wall_s": round(time.perf_counter() - began, 3),
        "processor_s": round(time.process_time() - processor, 3),
    }


def id_and_class(cells: list[CellBatch], sound: bool) -> list[CellBatch]:
    return [replace(batch, measurements={}).vouched_for(sound) for batch in cells]


def written(cells: list[CellBatch], path: Path) -> dict[str, float]:
    """One file of ``cells``."""
    found = timed(lambda: write(iter(cells), path))
    return found | {"bytes": path.stat().st_size}


def goals(cells: list[CellBatch], folder: Path) -> dict[str, Any]:
    """The files and the window that a goal was set for."""
    made, given = id_and_class(cells, True), id_and_class(cells, False)
    result: dict[str, Any] = {}
    for name, goal in GOALS.items():
        result[name] = {"goal_s": goal} | written(made, folder / name)
        result[f"{name}, each outline looked at"] = {"goal_s": goal} | written(given, folder / name)
    saved = Cells.open(folder / "cells.parquet")
    right, bottom = shapely.total_bounds(cells[-1].geometry)[2:] // 2
    window = (right, bottom, right + WINDOW, bottom + WINDOW)
    found = len(saved.to_geopandas(window))
    seconds = [timed(lambda: saved.to_geopandas(window))["wall_s"] for _ in range(7)]
    result[f"window of {WINDOW} x {WINDOW} px"] = {
        "goal_s": WINDOW_GOAL,
        "wall_s": min(seconds),
        "median_wall_s": median(seconds),
        "cells": found,
    }
    return result


def others(cells: list[CellBatch], folder: Path) -> dict[str, Any]:
    """All columns in all formats, and reading them back."""
    names = ("cells.geojson", "cells.geojson.gz", "cells.parquet", "cells.csv")
    result: dict[str, Any] = {f"write {name}": written(cells, folder / name) for name in names}
    both = [folder / "both.geojson.gz", folder / "both.parquet"]
    result["write GeoJSON.gz and Parquet"] = timed(lambda: write_all(iter(cells), both))
    saved = Cells.open(folder / "cells.parquet")
    result["read cells.parquet"] = timed(lambda: sum(map(len, saved.batches())))
    result["read cells.parquet, geopandas"] = timed(saved.to_geopandas)
    result["read cells.geojson.gz"] = timed(
        lambda: sum(map(len, read_geojson(folder / "cells.geojson.gz")))
    )
    return result


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    cells = list(batches(n))
    vertices = sum(int(shapely.get_num_coordinates(b.geometry).sum()) for b in cells) / n
    result: dict[str, Any] = {"cells": n, "vertices_of_a_cell": round(vertices, 1)}
    with tempfile.TemporaryDirectory() as name:
        result["id and class"] = goals(cells, Path(name))
        tenth = list(islice(cells, -(-len(cells) // 10)))
        result |= {"cells_of_the_rest": sum(map(len, tenth)), "rest": others(tenth, Path(name))}
    result["peak_rss_bytes"] = peak_rss_bytes()
    path = save("export", result)
    print(json.dumps(result, indent=2, ensure_ascii=False))
    print(f"written to {path.name}")


if __name__ == "__main__":
    main()
