"""Peak memory of the main job against the size of the slide, and against the number of cells.

As scale.py does, maps replayed: the same field of tissue on slides of several sizes, then fields of
several sizes on slides of one.

python benchmarks/memory.py [--gigapixels 1 4 16] [--fields 768 1536 3072] [--quick]
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import finish
from replay import make_block
from scale import measure

Row = dict[str, Any]


def rows(sizes: list[float], fields: list[int], middle: tuple[float, int]) -> Iterator[Row]:
    """One per size of the slide with the middle field, and one per field with the middle size."""
    wanted = [(s, middle[1]) for s in sizes] + [(middle[0], f) for f in fields if f != middle[1]]
    for field in sorted({field for _, field in wanted}):
        with tempfile.TemporaryDirectory() as name:
            make_block(Path(name), field)
            for size in (size for size, of in wanted if of == field):
                yield {"field_px": field, "gigapixels": size, **kept(Path(name), size)}


def kept(folder: Path, gigapixels: float) -> Row:
    whole = measure(folder, gigapixels)["whole"]
    return {name: whole[name] for name in ("cells", "rss_before_the_run_bytes", "peak_rss_bytes")}


def spread(found: list[Row], key: str, at: float) -> float:
    """Largest peak over the smallest, of the rows whose ``key`` is ``at``."""
    peaks = [row["peak_rss_bytes"] for row in found if row[key] == at]
    return round(max(peaks) / min(peaks), 3)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[1.0, 4.0, 16.0])
    parser.add_argument("--fields", type=int, nargs="+", default=[768, 1536, 3072], help="px")
    parser.add_argument("--quick", action="store_true", help="two sizes, two fields")
    options = parser.parse_args()
    sizes, fields = options.gigapixels, options.fields
    if options.quick:
        sizes, fields = [0.25, 1.0], [512, 1024]
    middle = (sizes[len(sizes) // 2], fields[len(fields) // 2])
    found = []
    for row in rows(sizes, fields, middle):
        found.append(row)
        print(row, flush=True)
    result = {
        "rows": found,
        "most_over_least": {
            f"slides of {sizes[0]:g} to {sizes[-1]:g} Gpx": spread(found, "field_px", middle[1]),
            f"cells on {middle[0]:g} Gpx": spread(found, "gigapixels", middle[0]),
        },
    }
    print(result["most_over_least"])
    finish("memory", result, quick=options.quick)


if __name__ == "__main__":
    main()
