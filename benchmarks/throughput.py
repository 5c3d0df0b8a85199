"""The main job as users run it: seconds per mm² by stage, beside the bare forward of its network.

Runs `wsiseg segment` as a process of its own, then the network alone over the very patches that
were run (margins included, pixels read beforehand), as many forwards at once; both in turn,
several times, and the best of each is kept. Seconds per mm² are (total - start-up) / analysed mm²,
analysed being the cores of the patches that were run. Stages that work in several threads are
summed over these; the time of a core is that of all cores from start-up to the end.

python benchmarks/throughput.py [--slide SLIDE] [--model nuclei-he] [--repeats 5] [--quick]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from biopsy import densest, options_for, plan_for, slide_at
from forward import bare_forward, forward_px
from parts import MEASURE, shares
from record import cores, finish

from wsiseg.model.base import LocalModel
from wsiseg.run.plan import Plan

KEPT = ("cells", "tissue_mm2", "analysed_mm2", "dropped", "seconds", "peak_rss_bytes", "grid")
HOW = ("model", "precision", "device", "batch")
"""Settings of the job that the bare forward follows, too."""

Told = dict[str, Any]


def end_to_end(slide: Path, words: list[str]) -> Told:
    """The record of one run in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "wsiseg", "segment", str(slide), "--out", str(out)]
        before = _cpu_of_children()
        done = subprocess.run(
            [*command, "--json", *words], stdout=subprocess.PIPE, text=True, check=True
        )
        facts = json.loads(done.stdout)
        cpu = {"cpu_s": round(_cpu_of_children() - before, 3)}
        sizes = {name: (out / name).stat().st_size for name in facts["files"]}
    return {name: facts[name] for name in KEPT} | {"file_bytes": sizes} | cpu


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def help_seconds(repeats: int) -> float:
    """Wall seconds of `wsiseg --help`, the least of ``repeats``."""
    seen = []
    for _ in range(repeats):
        began = time.perf_counter()
        command = [sys.executable, "-m", "wsiseg", "--help"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seen.append(time.perf_counter() - began)
    return round(min(seen), 3)


def areas(plan: Plan) -> dict[str, float]:
    """mm² of tissue and of what is run, and their ratios."""
    full = round(forward_px(plan) * _px_mm2(plan), 4)
    tissue = plan.tissue_mm2 or float("nan")
    return {
        "tissue_mm2": plan.tissue_mm2,
        "cores_mm2": plan.analysed_mm2,
        "with_margins_mm2": full,
        "cores_over_tissue": round(plan.analysed_mm2 / tissue, 3),
        "with_margins_over_tissue": round(full / tissue, 3),
    }


def _px_mm2(plan: Plan) -> float:
    return float(np.prod(plan.space.spacing)) / 1e6


def wall_of(run: Told) -> float:
    return float(run["seconds"]["total"] - run["seconds"]["startup"])


def rates(run: Told, threads: int, plan: Plan, within: dict[str, dict[str, float]]) -> Told:
    """Seconds per mm², and which part of the cores' time each stage takes."""
    wall, area = wall_of(run), run["analysed_mm2"]
    stages = by_stage(run["seconds"], within)
    stages["cores idle"] = max(0.0, threads * wall - sum(stages.values()))
    return {
        "seconds_per_mm2": round(wall / area, 3),
        "mpx_s": round(area / _px_mm2(plan) / wall / 1e6, 3),
        "network_share_of_core_time": round(stages.get("network", 0.0) / (threads * wall), 3),
        "stages": {
            name: {
                "core_s_per_mm2": round(value / area, 4),
                "share_of_core_time": round(value / (threads * wall), 4),
            }
            for name, value in stages.items()
        },
    }


def by_stage(seconds: dict[str, float], within: dict[str, dict[str, float]]) -> dict[str, float]:
    """The stages after start-up; what is measured while decoding and tracing, on its own."""
    stages = {name: s for name, s in seconds.items() if name not in ("total", "startup")}
    for stage, parts in within.items():
        moved = stages.get(stage, 0.0) * parts[MEASURE]
        stages[MEASURE] = stages.get(MEASURE, 0.0) + moved
        stages[stage] = stages.get(stage, 0.0) - moved
    return stages


def against_forward(walls: list[float], forwards: list[float], plan: Plan) -> Told:
    """The whole job over its network alone."""
    in_turn = [w / f for w, f in zip(walls, forwards, strict=True)]
    return {
        "wall_less_startup_s": [round(s, 3) for s in walls],
        "bare_forward_s": [round(s, 3) for s in forwards],
        "bare_forward_mpx_s": round(forward_px(plan) / min(forwards) / 1e6, 3),
        "end_to_end_over_forward": round(min(walls) / min(forwards), 3),
        "end_to_end_over_forward_median": round(median(in_turn), 3),
    }


def measure(slide: Path, options: Namespace) -> Told:
    """Everything about one slide."""
    how = {name: getattr(options, name) for name in HOW}
    plan = plan_for(slide, **how)
    threads = options.workers or (1 if options.workers == 0 else cores())
    given = how | {"workers": options.workers}
    words = [w for name, v in given.items() if v is not None for w in (f"--{name}", str(v))]
    runs, forwards = [], []
    for _ in range(options.repeats):
        runs.append(end_to_end(slide, words))
        forwards.append(bare_forward(plan, threads))
    walls = [wall_of(run) for run in runs]
    best = runs[int(np.argmin(walls))]
    within: dict[str, dict[str, float]] = {}
    if isinstance(plan.model, LocalModel):
        windows = densest(plan, options.side, options.windows)
        within = shares(windows, plan.model, plan.recipe)
    return {
        "forwards_at_once": threads,
        "patches": int(plan.active.sum()),
        **rates(best, threads, plan, within),
        "within": within,
        "areas": areas(plan),
        **against_forward(walls, [wall for wall, _ in forwards], plan),
        "cpu_s_of_whole_process": [run["cpu_s"] for run in runs],
        "cpu_s_of_bare_forward": [round(cpu, 3) for _, cpu in forwards],
        "best_run": best,
    }


def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, help="as of `wsiseg segment`")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4, help="to tell parts of decode and trace")
    parser.add_argument("--side", type=int, default=1024, help="px of these windows")
    parser.add_argument("--name", default="throughput", help="of the file in results/")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.windows, options.side = 1, 1, 512
    with slide_at(options.slide, quick=options.quick) as slide:
        result = {"slide": slide.name, **measure(slide, options)}
    result["help_s"] = help_seconds(options.repeats)
    asked = {name: getattr(options, name) for name in (*HOW, "workers", "repeats")}
    print(json.dumps(result, indent=2, ensure_ascii=False))
    finish(options.name, asked | result, quick=options.quick)


if __name__ == "__main__":
    main()
