"""The main job on 1, 4 and 16 gigapixels, maps replayed: seconds of each stage, and memory.

python benchmarks/scale.py [GIGAPIXELS ...]

A field of the stitched biopsy is repeated over the slide (see replay.py), about a million cells on
16 Gpx. Each size is run twice in a process of its own: from nothing, and again with every region
already stored, which leaves the stitching and the writing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import save
from replay import BLOCK, UNIT, make_block, repeat, replay

from wsiseg.run.job import Job
from wsiseg.run.report import peak_rss_bytes
from wsiseg.run.segment import run

SIDE = 1536  # px of the field in each block: about a million cells on 16 Gpx
AFTER_REGIONS = ("stitch", "trace", "write", "preview")
KEPT = ("cells", "analysed_mm2", "regions", "peak_rss_bytes", "seconds")


def measure(folder: Path, gigapixels: float) -> dict[str, Any]:
    """Both runs of one size."""
    times = max(1, round((gigapixels * 2**30) ** 0.5 / UNIT))
    repeat(folder / "block.tif", times, folder / "slide.tif")
    found: dict[str, Any] = {"side_px": times * UNIT}
    for name in ("whole", "files_again"):
        words = [sys.executable, __file__, "--one", str(folder), str(gigapixels)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(folder: Path, gigapixels: str) -> None:
    """One run in this process; prints its record."""
    model = replay(folder)
    loaded, out = peak_rss_bytes(), folder / f"out-{gigapixels}"
    began, processor = time.perf_counter(), time.process_time()
    facts = run(Job(slide=str(folder / "slide.tif"), out=out, model=model)).facts
    kept = {name: facts[name] for name in KEPT} | {
        "wall_s": round(time.perf_counter() - began, 2),
        "processor_s": round(time.process_time() - processor, 2),
        "after_regions_s": round(sum(facts["seconds"].get(k, 0) for k in AFTER_REGIONS), 2),
        "rss_before_the_run_bytes": loaded,
        "bytes": {name: (out / name).stat().st_size for name in facts["files"]},
        "stored_bytes": sum(p.stat().st_size for p in (out / ".wsiseg/regions").iterdir()),
    }
    print(json.dumps(kept))


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        return one(Path(sys.argv[2]), sys.argv[3])
    sizes = [float(word) for word in sys.argv[1:]] or [1.0, 4.0, 16.0]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        make_block(Path(name), SIDE)
        for size in sizes:
            results[f"{size:g}"] = measure(Path(name), size)
            print(json.dumps({size: results[f"{size:g}"]}, indent=2), flush=True)
    path = save("scale", {"field_px": SIDE, "block_px": BLOCK, "gigapixels": results})
    print(f"written to {path.name}")


if __name__ == "__main__":
    main()
