"""What a batch costs beside its slides, how it grows, and what a second worker brings.

overhead: small slides by ``run`` in one process, then by a batch of one worker: CPU per slide.
speed-up: equal slides by one worker on one core and by two on two, in turn; time from the first
  slide's end on.
rows: the planner with up to 10^5 slides, none of which is run: CPU, memory, size of status.json.

python benchmarks/archive.py [--slides 60] [--side 1200] [--rounds 3] [--quick]
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from record import finish

import wsiseg
from wsiseg.archive.batch import _open_book
from wsiseg.archive.place import place_of
from wsiseg.archive.request import Request
from wsiseg.archive.rows import SlideRow
from wsiseg.engine.executor import Serial
from wsiseg.model.zoo import load_model
from wsiseg.run.job import Job
from wsiseg.run.segment import run
from wsiseg.synth import he_slide, write_he_slide

MODEL = "hematoxylin"


def cpu(whose: int) -> float:
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def rows_of(slide: Path, count: int) -> list[SlideRow]:
    return [SlideRow(f"s{i:06}", str(slide)) for i in range(count)]


def overhead(slide: Path, count: int, folder: Path) -> dict[str, float]:
    """Milliseconds of CPU per slide; start-up, which is paid once, is taken off."""
    model = load_model(MODEL)
    run(Job(slide=slide, out=folder / "warm", model=model), executor=Serial())
    began = cpu(resource.RUSAGE_SELF)
    for i in range(count):
        run(Job(slide=slide, out=folder / f"run{i}", model=model), executor=Serial())
    alone = cpu(resource.RUSAGE_SELF) - began
    one, many = (_batch_cpu(slide, n, folder / f"batch{n}") for n in (1, count + 1))
    parent, worker = (b - a for a, b in zip(one, many, strict=True))
    found = {"run_ms": alone, "worker_ms": worker, "parent_ms": parent}
    return {name: round(1e3 * value / count, 2) for name, value in found.items()}


def _batch_cpu(slide: Path, count: int, out: Path) -> tuple[float, float]:
    before = cpu(resource.RUSAGE_SELF), cpu(resource.RUSAGE_CHILDREN)
    assert wsiseg.batch(rows_of(slide, count), out, model=MODEL, workers=1).ok
    return cpu(resource.RUSAGE_SELF) - before[0], cpu(resource.RUSAGE_CHILDREN) - before[1]


def speed_up(slide: Path, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Slides per second of one and two workers, the best of several rounds in turn."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    all_cores = sorted(os.sched_getaffinity(0))
    for i in range(rounds):
        for workers in rates:
            ends: list[float] = []

            def note(record: Any, ends: list[float] = ends) -> None:
                ends.extend([time.perf_counter()] if record.state == "done" else [])

            out = folder / f"workers{workers}-{i}"
            os.sched_setaffinity(0, all_cores[:workers])  # a lone worker would take all of them
            how = {"model": MODEL, "workers": workers, "region": 512, "on_change": note}
            assert wsiseg.batch(rows_of(slide, count), out, **how).ok
            steady = ends[workers - 1 :]  # libraries are loaded, kernels compiled
            rates[workers].append((len(steady) - 1) / (steady[-1] - steady[0]))
    os.sched_setaffinity(0, all_cores)
    best = {str(workers): round(max(found), 4) for workers, found in rates.items()}
    return {"slides_per_s": best, "ratio": round(best["2"] / best["1"], 3)}


def growth(slide: Path, count: int, folder: Path) -> dict[str, Any]:
    """Opening an archive of so many slides: states, journal and status files."""
    began = time.process_time()
    request = Request.of(rows_of(slide, count), model=MODEL, workers=8)
    place = place_of(folder / f"rows{count}", request)
    archive = place.folder
    archive.claim()
    with archive.locked(None) as held:
        archive.settle(request.parts(), fresh=False)
        book, _ = _open_book(request, place, {}, held, None)
        book.close()
    return {
        "slides": count,
        "cpu_s": round(time.process_time() - began, 2),
        "rss_bytes": psutil.Process().memory_info().rss,
        "status_json_bytes": (archive.root / "status.json").stat().st_size,
    }


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=60)
    parser.add_argument("--side", type=int, default=1200, help="px of the slides for speed-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few slides, one round")
    options = parser.parse_args()
    count, rounds = (4, 1) if options.quick else (options.slides, options.rounds)
    side = 400 if options.quick else options.side
    sizes = [100, 1000] if options.quick else [1000, 10_000, 100_000]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for slide, px in (("small.tiff", 400), ("large.tiff", side)):
            made = he_slide((px, px + 13), np.random.default_rng(px))
            write_he_slide(folder / slide, made)
        result: dict[str, Any] = {"rows": [growth(folder / "small.tiff", n, folder) for n in sizes]}
        print(result["rows"], flush=True)
        result["overhead"] = overhead(folder / "small.tiff", count, folder)
        print(result["overhead"], flush=True)
        result["speed_up"] = speed_up(folder / "large.tiff", max(6, count // 3), rounds, folder)
        print(result["speed_up"])
    finish("archive", result, quick=options.quick)


if __name__ == "__main__":
    main()
